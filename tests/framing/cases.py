"""Requests that two HTTP parsers may read differently, from a seed. A case is one to three requests on one connection: perhaps a plain one,
one with oddities in its head and its body's framing, and a plain last one that tells where the odd one ended. Every request, those that lie
hidden in a body too, carries an id of its own: which ids a server answers, in which order, is how it read the bytes."""

import random

HEX = "0123456789abcdef"


class Case:
    def __init__(self, number, rng):
        self.number, self.rng, self.methods, self.oddities = number, rng, {}, []
        parts = [self.plain("before")] if rng.random() < 0.2 else []
        parts += [self.odd(), self.plain("after", last=True)]
        self.data = b"".join(parts)

    def name(self, what, method):
        name = f"c{self.number}-{what}"
        self.methods[name] = method
        return name.encode()

    def note(self, oddity):
        self.oddities.append(oddity)

    def pick(self, *weighted):
        """One of (weight, name, value); what is not called "" is an oddity of this case."""
        (_, name, value), = self.rng.choices(weighted, [w for w, _, _ in weighted])
        if name:
            self.note(name)
        return value

    def plain(self, what, last=False):
        return (b"GET /%s HTTP/1.1\r\nHost: q\r\nX-Request-Id: %s\r\n%s\r\n"
                % (what.encode(), self.name(what, "GET"), b"Connection: close\r\n" if last else b""))

    # -- the odd request --

    def odd(self):
        method = self.pick((10, "", b"POST"), (1, "PUT", b"PUT"), (1, "GET with a body", b"GET"), (0.5, "HEAD", b"HEAD"), (0.5, "DELETE", b"DELETE"),
                           (0.3, "OPTIONS", b"OPTIONS"), (0.2, "post", b"post"), (0.2, "TRACE", b"TRACE"), (0.2, "CONNECT", b"CONNECT"),
                           (0.2, "method with a NUL", b"PO\0ST"), (0.2, "M-SEARCH", b"M-SEARCH"))
        ident = self.name("odd", method.decode())
        payload = self.payload()
        framing, body = self.framing(payload)
        fields = [self.host(), b"X-Request-Id: " + ident, b"Content-Type: application/json", *framing, *self.extras()]
        fields = [f for f in fields if f is not None]
        self.rng.shuffle(fields)
        end = self.pick((30, "", b"\r\n"), (0.5, "bare LF after fields", b"\n"), (0.3, "bare CR after fields", b"\r"), (0.3, "CR CR LF", b"\r\r\n"))
        last = self.pick((40, "", b"\r\n"), (0.4, "head ends with LF", b"\n"), (0.4, "head ends with LF CR LF", b"\n\r\n"), (0.3, "blank with a space", b" \r\n"))
        return self.leading() + self.request_line(method) + end.join([*fields, b""]) + last + body

    def leading(self):
        return self.pick((40, "", b""), (1, "CRLF before", b"\r\n"), (0.5, "CRLF twice before", b"\r\n\r\n"), (0.5, "LF before", b"\n"),
                         (0.3, "space before", b" "), (0.2, "CR before", b"\r"))

    def request_line(self, method):
        target = self.pick((30, "", b"/v1/jobs"), (1, "query", b"/v1/jobs?wait=0s"), (1, "absolute form", b"http://q/v1/jobs"),
                           (0.5, "absolute form, another host", b"http://other/v1/jobs"), (0.3, "upper-case scheme", b"HTTP://q/v1/jobs"),
                           (0.3, "absolute form without a path", b"http://q"), (0.3, "user in the target", b"http://u@q/v1/jobs"),
                           (0.3, "star", b"*"), (0.3, "two slashes", b"//q/v1/jobs"), (0.3, "no slash", b"v1/jobs"), (0.3, "space in the target", b"/v1/ jobs"),
                           (0.3, "bad escape", b"/v1/%zz"), (0.3, "byte above 127", b"/v1/\xc3\xa9"), (0.3, "fragment", b"/v1/jobs#x"),
                           (0.3, "NUL in the target", b"/v1/\0jobs"), (0.3, "tab in the target", b"/v1/\tjobs"), (0.2, "empty target", b""),
                           (0.2, "authority form", b"q:80"), (0.2, "dots", b"/v1/../v1/jobs"))
        version = self.pick((40, "", b"HTTP/1.1"), (2, "HTTP/1.0", b"HTTP/1.0"), (0.3, "HTTP/1.2", b"HTTP/1.2"), (0.3, "HTTP/2.0", b"HTTP/2.0"), (0.3, "HTTP/1.01", b"HTTP/1.01"),
                            (0.3, "http/1.1", b"http/1.1"), (0.3, "HTTP/1.", b"HTTP/1."), (0.2, "HTTP/11.1", b"HTTP/11.1"), (0.2, "HTTP/1.1 and a space", b"HTTP/1.1 "))
        gap = self.pick((40, "", b" "), (0.4, "two spaces", b"  "), (0.4, "tab in the line", b"\t"), (0.2, "vertical tab in the line", b"\x0b"))
        end = self.pick((40, "", b"\r\n"), (0.5, "line ends with LF", b"\n"), (0.2, "line ends with CR", b"\r"))
        if self.rng.random() < 0.004:
            self.note("HTTP/0.9")
            return method + b" " + target + end
        return method + gap + target + gap + version + end

    def host(self):
        return self.pick((40, "", b"Host: q"), (1, "no host", None), (0.5, "host twice", b"Host: q\r\nHost: q"), (0.5, "two hosts", b"Host: q\r\nHost: r"),
                         (0.5, "empty host", b"Host:"), (0.5, "host with a port", b"host: q:80"), (0.3, "bad port", b"Host: q:8x"), (0.3, "host with a user", b"Host: u@q"),
                         (0.3, "host with a slash", b"Host: q/r"), (0.3, "host list", b"Host: q, r"), (0.3, "host folded", b"Host:\r\n q"), (0.3, "IPv6 host", b"Host: [::1]:80"),
                         (0.3, "space before the colon of host", b"Host : q"), (0.2, "host with a NUL", b"Host: q\0"))

    def extras(self):
        found = []
        while self.rng.random() < 0.25:
            found.append(self.pick(
                (1, "folded", b"X-A: b\r\n c"), (1, "folded with a tab", b"X-A: b\r\n\tc"), (1, "folded length", b"X-A: b\r\n Content-Length: 3"), (1, "NUL in a value", b"X-A: b\0c"),
                (1, "NUL in a name", b"X\0A: b"), (1, "CR in a value", b"X-A: b\rContent-Length: 3"), (1, "LF in a value", b"X-A: b\nX-B: c"), (1, "no colon", b"nonsense"),
                (1, "empty name", b": b"), (1, "empty value", b"X-A:"), (1, "space before a colon", b"X-A : b"), (1, "space in a name", b"X A: b"), (1, "tab in a name", b"X\tA: b"),
                (1, "control in a value", b"X-A: b\x01"), (1, "DEL in a value", b"X-A: b\x7f"), (1, "byte above 127 in a value", b"X-A: \xff"), (1, "byte above 127 in a name", b"X\xc3: b"),
                (1, "parentheses in a name", b"X(A): b"), (1, "underscore", b"Content_Length: 3"), (1, "expect", b"Expect: 100-continue"), (0.5, "expect else", b"Expect: 200-ok"),
                (1, "close", b"Connection: close"), (1, "keep-alive", b"Connection: keep-alive"), (1, "upgrade", b"Connection: upgrade\r\nUpgrade: websocket"),
                (1, "h2c", b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__"), (1, "connection names the length", b"Connection: content-length"),
                (0.5, "connection names the coding", b"Connection: transfer-encoding"), (1, "TE", b"TE: trailers, chunked"), (1, "trailer", b"Trailer: Content-Length"),
                (0.5, "X-Content-Length", b"X-Content-Length: 3"), (0.5, "long value", b"X-Long: " + b"a" * 3000), (0.5, "many fields", b"\r\n".join(b"X-%d: a" % i for i in range(70)))))
        return found

    # -- the body and what the head says of it --

    def payload(self):
        if self.rng.random() < 0.25:
            self.note("a request in the body")
            return b"GET /hidden HTTP/1.1\r\nHost: q\r\nX-Request-Id: %s\r\n\r\n" % self.name("hidden", "GET")
        return b'{"k%d":1}' % self.number + b" " * self.rng.choice([0, 0, 0, 1, 30, 300])

    def framing(self, payload):
        kind = self.pick((10, "", "length"), (10, "", "chunked"), (4, "length and chunked", "both"), (1, "neither", "none"))
        fields, body = [], payload
        if kind == "chunked" or (kind == "both" and self.rng.random() < 0.6):
            body = self.chunks(payload)
        if kind in ("length", "both"):
            said = len(body) if kind == "length" else self.rng.choice([len(body), len(payload), 0, 3, len(body) + 5])
            fields.append(self.length(said))
        if kind in ("chunked", "both"):
            fields.append(self.coding())
        return fields, body

    def length(self, n):
        name = self.pick((40, "", b"Content-Length"), (0.5, "lower-case length", b"content-length"), (0.5, "space before the colon of the length", b"Content-Length "),
                         (0.3, "tab before the colon of the length", b"Content-Length\t"), (0.3, "space before the length", b" Content-Length"), (0.2, "NUL in the length's name", b"Content-Length\0"))
        value = self.pick((30, "", b" %d" % n), (1, "length too short", b" %d" % max(0, n - 3)), (1, "length zero", b" 0"), (1, "length too long", b" %d" % (n + 3)), (0.5, "no space", b"%d" % n),
                          (0.5, "blanks around the length", b" \t %d \t" % n), (0.5, "signed length", b" +%d" % n), (0.5, "negative length", b" -%d" % n), (0.5, "leading zeros", b" 00%d" % n),
                          (0.5, "hex length", b" 0x%x" % n), (0.5, "length list", b" %d, %d" % (n, n)), (0.5, "length list of two", b" %d, 0" % n), (0.5, "length and a comma", b" %d," % n),
                          (0.3, "empty length", b""), (0.3, "huge length", b" %d" % (n + 2**64)), (0.3, "length of 2^63", b" 9223372036854775808"), (0.3, "fraction", b" %d.0" % n), (0.3, "length and text", b" %dx" % n),
                          (0.3, "length folded", b"\r\n %d" % n), (0.3, "NUL in the length", b" %d\0" % n), (0.2, "length with vertical tab", b" \x0b%d" % n), (0.3, "quoted length", b' "%d"' % n))
        field = name + b":" + value
        again = self.pick((30, "", None), (0.7, "length twice", b"Content-Length: %d" % n), (0.7, "two lengths", b"Content-Length: %d" % (n // 2)))
        return field if again is None else self.rng.choice([field + b"\r\n" + again, again + b"\r\n" + field])

    def coding(self):
        name = self.pick((40, "", b"Transfer-Encoding"), (0.5, "upper-case coding", b"TRANSFER-ENCODING"), (0.7, "space before the colon of the coding", b"Transfer-Encoding "),
                         (0.3, "underscore in the coding's name", b"Transfer_Encoding"), (0.3, "NUL in the coding's name", b"Transfer-Encoding\0"), (0.2, "space before the coding", b" Transfer-Encoding"))
        value = self.pick((30, "", b" chunked"), (0.7, "Chunked", b" Chunked"), (0.5, "no space before chunked", b"chunked"), (0.5, "blanks around chunked", b" \t chunked \t"), (0.5, "chunked twice in a list", b" chunked, chunked"),
                          (0.5, "gzip, chunked", b" gzip, chunked"), (0.5, "chunked, gzip", b" chunked, gzip"), (0.5, "identity", b" identity"), (0.3, "chunked with a parameter", b" chunked;q=1"), (0.3, "xchunked", b" xchunked"),
                          (0.3, "chunkedx", b" chunkedx"), (0.3, "quoted chunked", b' "chunked"'), (0.3, "comma, chunked", b" ,chunked"), (0.3, "chunked, comma", b" chunked,"), (0.3, "empty coding", b""),
                          (0.5, "coding folded", b"\r\n chunked"), (0.3, "identity, chunked", b" identity, chunked"), (0.3, "chunked and a NUL", b" chunked\0"), (0.3, "vertical tab before chunked", b" \x0bchunked"),
                          (0.2, "chunked with a letter above 127", b" chun\xc4\xb7ed"))
        field = name + b":" + value
        again = self.pick((30, "", None), (0.5, "coding twice", b"Transfer-Encoding: chunked"), (0.5, "coding and identity", b"Transfer-Encoding: identity"))
        return field if again is None else self.rng.choice([field + b"\r\n" + again, again + b"\r\n" + field])

    def chunks(self, payload):
        out, at = b"", 0
        while at < len(payload):
            n = self.rng.randint(1, len(payload) - at) if self.rng.random() < 0.5 else len(payload) - at
            out += self.chunk(payload[at:at + n])
            at += n
        end = self.pick((30, "", b"0\r\n"), (0.5, "last chunk 000", b"000\r\n"), (0.5, "last chunk with an extension", b"0;x=y\r\n"), (0.5, "last chunk ends with LF", b"0\n"), (0.3, "last chunk and a space", b"0 \r\n"),
                        (0.3, "no last chunk", b""), (0.3, "last chunk -0", b"-0\r\n"), (0.3, "last chunk 0x0", b"0x0\r\n"), (0.2, "last chunk 00000000000000000", b"0" * 17 + b"\r\n"))
        trailers = self.pick((30, "", b"\r\n"), (1, "trailers", b"T: v\r\nU:\r\n\r\n"), (0.7, "length in the trailers", b"Content-Length: 5\r\n\r\n"), (0.4, "folded trailer", b"T: v\r\n w\r\n\r\n"),
                             (0.4, "trailer without a colon", b"nonsense\r\n\r\n"), (0.4, "trailers end with LF", b"T: v\n\n"), (0.4, "body ends with LF", b"\n"), (0.3, "no blank line", b""), (0.3, "space before a trailer's colon", b"T : v\r\n\r\n"),
                             (0.3, "NUL in a trailer", b"T: \0\r\n\r\n"), (0.3, "CR in the blank line", b"\r\r\n"))
        return out + end + trailers

    def chunk(self, data):
        n = len(data)
        size = self.pick((60, "", b"%x" % n), (0.5, "upper-case size", b"%X" % n), (0.5, "size with zeros", b"000%x" % n), (0.4, "signed size", b"+%x" % n), (0.4, "negative size", b"-%x" % n), (0.4, "0x size", b"0x%x" % n),
                         (0.5, "size and a space", b"%x " % n), (0.4, "space before a size", b" %x" % n), (0.4, "size and a tab", b"%x\t" % n), (0.3, "size of 17 digits", b"0" * 16 + b"%x" % n), (0.3, "size that wraps", b"1" + b"0" * 15 + b"%02x" % n),
                         (0.3, "size that wraps at 32 bits", b"1%08x" % n), (0.3, "size and a letter", b"%xg" % n), (0.3, "size and a NUL", b"%x\0" % n), (0.3, "no size", b""), (0.3, "size too short", b"%x" % max(0, n - 1)), (0.3, "size too long", b"%x" % (n + 1)),
                         (0.2, "size with an underscore", b"%x_0" % n), (0.2, "decimal size", b"%d" % n))
        ext = self.pick((60, "", b""), (1, "extension", b";a=b"), (0.5, "extension without a name", b";"), (0.5, "quoted extension", b';a="b;c"'), (0.4, "quoted CR LF in an extension", b';a="\r\n"'), (0.3, "LF in an extension", b";a\nb"),
                        (0.3, "CR in an extension", b";a\rb"), (0.3, "NUL in an extension", b";\0"), (0.3, "spaces around an extension", b" ; a = b"), (0.3, "long extension", b";" + b"a" * 200))
        end = self.pick((60, "", b"\r\n"), (0.5, "size ends with LF", b"\n"), (0.3, "size ends with CR", b"\r"), (0.3, "size ends with CR CR LF", b"\r\r\n"))
        after = self.pick((60, "", b"\r\n"), (0.5, "chunk ends with LF", b"\n"), (0.4, "chunk ends with nothing", b""), (0.3, "chunk ends with other bytes", b"XX"), (0.3, "chunk ends with CR LF twice", b"\r\n\r\n"), (0.3, "chunk ends with CR", b"\r"))
        return size + ext + end + data + after


def case(seed, number):
    return Case(number, random.Random(f"{seed}/{number}"))
