"""Submits jobs and waits for their end, in eight threads, until standard input ends; half of them keep their connections. A line on standard
input asks for the count so far. Whatever is not a 200 with a completed job has failed, and is told."""

import http.client
import json
import sys
import threading

PORT = int(sys.argv[1])
BODY = json.dumps({"prompt": "under load"})
failed, counts = [], [0] * 8
first, over = threading.Event(), threading.Event()


def one(connection, keep):
    headers = {"Content-Type": "application/json", **({} if keep else {"Connection": "close"})}
    connection.request("POST", "/v1/jobs?wait=10s", BODY, headers)
    reply = connection.getresponse()
    text = reply.read()
    if reply.status != 200 or json.loads(text)["status"] != "completed":
        failed.append(f"{reply.status} {text[:200]!r}")


def client(number):
    keep = number % 2 == 0
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=40)
    while not over.is_set():
        try:
            one(connection, keep)
        except OSError as e:
            failed.append(f"{'kept' if keep else 'new'} connection: {type(e).__name__} {e}")
            connection.close()
        except http.client.HTTPException as e:
            failed.append(f"{'kept' if keep else 'new'} connection: {type(e).__name__} {e}")
            connection.close()
        counts[number] += 1
        first.set()
        if not keep:
            connection.close()


threads = [threading.Thread(target=client, args=(n,)) for n in range(len(counts))]
for thread in threads:
    thread.start()
first.wait(60)
print("{}", flush=True)
for _ in sys.stdin:
    print(json.dumps({"done": sum(counts)}), flush=True)
over.set()
for thread in threads:
    thread.join()
print(json.dumps({"done": sum(counts), "failed": failed[:20], "failed_count": len(failed)}), flush=True)
