"""Keys of a test's own: certificates for Redis over TLS, CURVE pairs for ZeroMQ over TCP."""

import subprocess

from quern import BUILD


def openssl(*words, cwd):
    subprocess.run(["openssl", *words], cwd=cwd, check=True, capture_output=True, timeout=30)


class Authority:
    """A certificate authority in a directory."""

    def __init__(self, directory):
        self.dir = directory
        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", "/CN=tests",
                "-keyout", "ca.key", "-out", "ca.pem", cwd=directory)

    def certificate(self, name, address):
        """Key and certificate of a server that is reached at `address`."""
        (self.dir / f"{name}.ext").write_text(f"subjectAltName=IP:{address}\n")
        openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", f"/CN={name}", "-keyout", f"{name}.key",
                "-out", f"{name}.csr", cwd=self.dir)
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile",
                f"{name}.ext", "-out", f"{name}.pem", cwd=self.dir)
        return self.dir / f"{name}.key", self.dir / f"{name}.pem"


def keygen(path):
    """A CURVE pair in a file; its public key."""
    done = subprocess.run([str(BUILD / "quernctl"), "keygen", str(path)], capture_output=True, text=True, timeout=10)
    assert done.returncode == 0, done
    return done.stdout.strip()
