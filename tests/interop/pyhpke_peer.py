"""pyhpke_peer.py PEER: both directions between our codec and pyhpke, with X25519, a byte at a time.

Chunked Oblivious HTTP and binary HTTP are written here after RFC 9458, draft-ietf-ohai-chunked-ohttp-08
and RFC 9292; pyhpke agrees on keys, seals, opens and exports.
"""

import hmac
import json
import os
import subprocess
import sys
import traceback

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pyhpke import AEADId, CipherSuite, KDFId, KEMId

SUITE = CipherSuite.new(KEMId.DHKEM_X25519_HKDF_SHA256, KDFId.HKDF_SHA256, AEADId.AES256_GCM)
REQUEST, RESPONSE = b"message/bhttp chunked request", b"message/bhttp chunked response"
PROOF = b"relay/1 edge proof"
ENC_BYTES, ENTROPY_BYTES, NONCE_BYTES = 32, 32, 12


class Peer:
    """Our end, which says and hears lines."""

    def __init__(self, program, *words):
        self.process = subprocess.Popen([program, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def say(self, word, said):
        self.process.stdin.write(f"{word} {said.hex()}\n")
        self.process.stdin.flush()

    def line(self):
        line = self.process.stdout.readline()
        assert line, "our end has ended; its last words are above"
        return line

    def hear(self, word):
        first, said = self.line().split()
        assert first == word, f"expected {word}, heard {first}"
        return bytes.fromhex(said)

    def end(self):
        self.process.stdin.close()
        assert self.process.wait(10) == 0, "our end has failed"


def varint(value):
    return bytes([value]) if value < 0x40 else (value | 0x4000).to_bytes(2, "big")


def string(value):
    return varint(len(value)) + value


class Cursor:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, count):
        taken = self.data[self.at : self.at + count]
        assert len(taken) == count, "the message ends too early"
        self.at += count
        return taken

    def varint(self):
        first = self.data[self.at]
        value = int.from_bytes(self.take(1 << (first >> 6)), "big")
        return value & ((1 << (8 * (1 << (first >> 6)) - 2)) - 1)

    def string(self):
        return self.take(self.varint())


def read_message(plain):
    """Of either kind and length: what stands first, header, content, trailer. Zeros follow."""
    cursor = Cursor(plain)
    framing = cursor.varint()
    is_known, is_request = framing < 2, framing % 2 == 0

    def section():
        fields, end = {}, None
        if is_known:
            length = cursor.varint()
            end = cursor.at + length
        while cursor.at != end:
            name = cursor.string()
            if not name:
                assert not is_known, "only an open section has an end"
                break
            fields[name.decode()] = cursor.string().decode()
        return fields

    informational = []
    if is_request:
        first = [cursor.string().decode() for _ in range(4)]
    else:
        while (first := cursor.varint()) < 200:
            informational.append((first, section()))
    header = section()
    if is_known:
        content = cursor.string()
    else:
        content = b""
        while piece := cursor.string():
            content += piece
    trailer = section()
    assert not any(plain[cursor.at :]), "padding is zeros"
    return first, informational, header, content, trailer


def write_known(first, header, content):
    lines = b"".join(string(name) + string(value) for name, value in header)
    return first + string(lines) + string(content) + string(b"")


class ResponseCipher:
    """RFC 9458, section 4.4, with the draft's counter."""

    def __init__(self, context, enc, nonce):
        secret = context.export(RESPONSE, ENTROPY_BYTES)
        prk = hmac.digest(enc + nonce, secret, "sha256")
        self.aead = AESGCM(hmac.digest(prk, b"key\x01", "sha256"))
        self.nonce = int.from_bytes(hmac.digest(prk, b"nonce\x01", "sha256")[:NONCE_BYTES], "big")
        self.counter = 0

    def next(self):
        nonce = (self.nonce ^ self.counter).to_bytes(NONCE_BYTES, "big")
        self.counter += 1
        return nonce

    def seal(self, plain, aad):
        return self.aead.encrypt(self.next(), plain, aad)

    def open(self, sealed, aad):
        return self.aead.decrypt(self.next(), sealed, aad)


def seal_chunks(cipher, plain, bytes_each):
    chunks = [plain[at : at + bytes_each] for at in range(0, len(plain), bytes_each)]
    sealed = [cipher.seal(chunk, b"") for chunk in chunks[:-1]]
    last = cipher.seal(chunks[-1], b"final")
    return b"".join(varint(len(chunk)) + chunk for chunk in sealed) + varint(0) + last


def open_chunks(cipher, sealed):
    """As bytes come: one at a time."""
    chunks, buffer, length = [], b"", None
    for byte in sealed:
        buffer += bytes([byte])
        if length is None:
            if len(buffer) == 1 << (buffer[0] >> 6):
                length, buffer = Cursor(buffer).varint(), b""
        elif 0 < length == len(buffer):
            chunks.append(cipher.open(buffer, b""))
            length, buffer = None, b""
    assert length == 0, "there is no final chunk"
    return [*chunks, cipher.open(buffer, b"final")]


def ids(key_id):
    return bytes([key_id, 0, 0x20, 0, 1, 0, 2])


def ask_our_gateway(gateway, keys, form):
    length = int.from_bytes(keys[:2], "big")
    config = keys[2 : 2 + length]
    assert config[1:3] == b"\x00\x20", "X25519 comes first"
    head = ids(config[0])
    key = SUITE.kem.deserialize_public_key(config[3:35])
    enc, context = SUITE.create_sender_context(key, info=REQUEST + b"\0" + head)
    line = b"\0" + b"".join(map(string, [b"POST", b"https", b"relay.invalid", form.encode()]))
    plain = write_known(line, [(b"x-from", b"stranger")], b"what is asked, " * 300)
    gateway.say("request", head + enc + seal_chunks(context, plain, 1_000))
    response = gateway.hear("response")
    cipher = ResponseCipher(context, enc, response[:ENTROPY_BYTES])
    chunks = open_chunks(cipher, response[ENTROPY_BYTES:])
    status, informational, header, content, trailer = read_message(b"".join(chunks))
    assert trailer == {"x-end": "said"}
    if form in ("/cells", "/constant"):
        assert status == 200 and header["content-type"] == "text/event-stream"
        assert len({len(chunk) for chunk in chunks}) == 1, "cells are of one size"
        assert [status for status, _ in informational] == ([102] * 4 if form == "/constant" else [])
        events = [line[6:] for line in content.decode().split("\n") if line.startswith("data: ")]
        assert events[1:] == ["[DONE]"]
        content = events[0]
    else:
        assert status == (201 if form == "/open" else 200) and header["x-form"] == form
        assert [status for status, _ in informational] == ([103, 102] if form == "/open" else [])
    heard = json.loads(content)
    assert heard["proof"] == context.export(PROOF, 32).hex(), "both ends export the same"
    assert (heard["method"], heard["path"]) == ("POST", form)
    assert heard["header"] == {"x-from": "stranger"}
    assert heard["content"] == "what is asked, " * 300


def answer_our_edge(program, form):
    key = SUITE.kem.derive_key_pair(os.urandom(32))
    config = bytes([9, 0, 0x20]) + key.public_key.to_public_bytes() + bytes([0, 4, 0, 1, 0, 2])
    edge = Peer(program, "edge", "x25519", form)
    edge.say("keys", len(config).to_bytes(2, "big") + config)
    sealed = edge.hear("request")
    head, enc = sealed[:7], sealed[7 : 7 + ENC_BYTES]
    assert head == ids(9)
    context = SUITE.create_recipient_context(enc, key.private_key, info=REQUEST + b"\0" + head)
    plain = b"".join(open_chunks(context, sealed[7 + ENC_BYTES :]))
    line, _, header, content, trailer = read_message(plain)
    assert line == ["POST", "https", "relay.invalid", "/v1/chat/completions"]
    assert header["x-proof"] == context.export(PROOF, 32).hex(), "both ends export the same"
    assert content == b"a question, " * 2_000 and trailer == {"x-end": "asked"}
    nonce = os.urandom(ENTROPY_BYTES)
    answer = write_known(b"\x01" + varint(418), [(b"x-from", b"stranger")], b"an answer, " * 500)
    edge.say("response", nonce + seal_chunks(ResponseCipher(context, enc, nonce), answer, 700))
    heard = json.loads(edge.line())
    edge.end()
    assert heard["status"] == 418 and heard["header"] == {"x-from": "stranger"}
    assert heard["content"] == "an answer, " * 500


def main():
    program = sys.argv[1]
    counts = {"passed": 0, "failed": 0}

    def check(name, run, *arguments):
        try:
            run(*arguments)
        except Exception:
            counts["failed"] += 1
            print(f"FAILED  {name}\n{traceback.format_exc()}")
        else:
            counts["passed"] += 1
            print(f"ok      {name}")

    gateway = Peer(program, "gateway")
    keys = gateway.hear("keys")
    for form in ("/known", "/open", "/cells", "/constant"):
        check(f"pyhpke, x25519: asks our gateway, which answers as {form[1:]}", ask_our_gateway, gateway, keys, form)
    for form in ("known", "open"):
        check(f"pyhpke, x25519: answers our edge, which asks with {form} length", answer_our_edge, program, form)
    check("our gateway ends when it is asked nothing more", gateway.end)
    print(f"{counts['passed']} passed, {counts['failed']} failed")
    return 1 if counts["failed"] else 0


sys.exit(main())
