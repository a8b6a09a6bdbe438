"""Questions as no client asks them, to the resolver, by datagram, by stream and in raw packets.

    malformed.py OWN_ADDRESS NAME

NAME has one A record. Behind each thing a plain question is asked, whose answer shows that the resolver goes on; what
comes before that answer is the thing's own. Ends with a line for each answer that was not due, and the count of kinds.
"""

import random
import socket
import struct
import sys

RESOLVER = ("169.254.240.53", 53)
OWN, NAME = sys.argv[1], sys.argv[2]
FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = 1, 2, 3, 4, 5
ANY_CODE, SILENCE = "any", "silence"


def name(text):
    return b"".join(bytes([len(label)]) + label.encode() for label in text.split(".")) + b"\0"


def header(flags=0x0100, questions=1, answers=0, authorities=0, additionals=0):
    return struct.pack(">6H", 0x5555, flags, questions, answers, authorities, additionals)


def question(of=name(NAME), asked=1, kind=1):
    return of + struct.pack(">2H", asked, kind)


def opt(payload=1232, version=0, length=0, owner=b"\0", data=b""):
    return owner + struct.pack(">2HI", 41, payload, version << 16) + struct.pack(">H", length) + data


def kinds():
    plain = header() + question()
    for length in range(12):
        yield f"{length} bytes", plain[:length], SILENCE
    yield "a header alone", header(questions=0), FORMERR
    yield "a header that promises a question", header(), FORMERR
    yield "a response", header(0x8180) + question(), SILENCE
    yield "a response of 12 bytes", header(0x8000, 0), SILENCE
    for count in (2, 3, 255, 65535):
        yield f"one question that says it is {count}", header(questions=count) + question(), FORMERR
    for count in (2, 40, 500):
        yield f"{count} questions", header(questions=count) + question() * count, FORMERR
    yield "two questions that say they are one", plain + question(), FORMERR
    for which in ("answers", "authorities", "additionals"):
        for count in (1, 9, 65535):
            yield f"{count} {which} that are not there", header(**{which: count}) + question(), FORMERR
    for what, of in (
        ("points to itself", b"\xc0\x0c"),
        ("points to itself behind a label", b"\x01a\xc0\x0c"),
        ("goes in a circle of two", b"\xc0\x0e\xc0\x0c"),
        ("points forward", b"\xc0\x20"),
        ("points behind the end", b"\xff\xff"),
        ("points into the header", b"\xc0\x00"),
        ("is half a pointer", b"\xc0"),
        ("has a label of 64", b"\x40" + b"a" * 64 + b"\0"),
        ("has a label of a reserved kind", b"\x80a\0"),
        ("has a label longer than the message", b"\x3fabc"),
        ("has no end", name(NAME)[:-1]),
        ("has 320 bytes", (b"\x3f" + b"a" * 63) * 5 + b"\0"),
        ("has 200 labels", b"\x01a" * 200 + b"\0"),
    ):
        yield f"a name that {what}", header() + question(of), FORMERR
    yield "a question without its class", (header() + question())[:-2], FORMERR
    yield "a question without its type", (header() + question())[:-4], FORMERR
    yield "bytes behind the end", plain + b"x", FORMERR
    yield "4,000 bytes behind the end", plain + bytes(4000), ANY_CODE
    for opcode in (1, 2, 3, 4, 5, 6, 15):
        yield f"opcode {opcode}", header(opcode << 11) + question(), NOTIMP
    for kind in (0, 2, 3, 4, 254, 255, 65535):
        yield f"class {kind}", header() + question(kind=kind), REFUSED
    yield "AXFR", header() + question(asked=252), REFUSED
    yield "IXFR", header() + question(asked=251), REFUSED
    for asked in (0, 10, 41, 249, 250, 256, 65535):
        yield f"type {asked}", header() + question(asked=asked), ANY_CODE
    yield "the root", header() + question(b"\0"), REFUSED
    zone = name("private-network.internal")
    for what, label in (("a NUL", b"\0"), ("a dot", b"."), ("no text", b"\xff\xfe"), ("a line's end", b"\r\n"), ("63 bytes", b"a" * 63)):
        yield f"a label with {what}", header() + question(bytes([len(label)]) + label + zone), NXDOMAIN
    yield "a name as long as one may be", header() + question(b"\x01a" * ((255 - len(zone)) // 2) + zone), NXDOMAIN
    with_opt = header(additionals=1) + question()
    yield "two OPT records", header(additionals=2) + question() + opt() * 2, FORMERR
    yield "an OPT record that lies about its length", with_opt + opt(length=100), FORMERR
    yield "an OPT record with half an option", with_opt + opt(length=3, data=b"\0\x0a\0"), ANY_CODE
    yield "an OPT record with an option that lies", with_opt + opt(length=4, data=b"\0\x0a\xff\xff"), ANY_CODE
    yield "an OPT record whose name goes in a circle", with_opt + opt(owner=struct.pack(">H", 0xC000 + len(with_opt))), FORMERR
    yield "an OPT record with a name", with_opt + opt(owner=b"\x01a\0"), ANY_CODE
    for payload in (0, 1, 511, 65535):
        yield f"a payload of {payload}", with_opt + opt(payload), 0
    yield "EDNS version 1", with_opt + opt(version=1), 0
    yield "EDNS version 255", with_opt + opt(version=255), 0
    yield "zeros", bytes(512), FORMERR
    yield "ones", b"\xff" * 512, SILENCE
    seeded = random.Random(4)
    for n in range(100):
        changed = bytearray(plain + opt())
        for _ in range(seeded.randint(1, 8)):
            changed[seeded.randrange(2, len(changed))] = seeded.randrange(256)
        yield f"a question with bytes changed, {n}", bytes(changed), ANY_CODE
    for n in range(50):
        yield f"random bytes, {n}", b"\x55\x55" + seeded.randbytes(seeded.randint(10, 600)), ANY_CODE


def sentinels():
    number = 0
    while True:
        number = number % 20_000 + 1
        message = struct.pack(">H", number) + header()[2:] + question()
        yield message


plain_questions, faults, count = sentinels(), [], 0


def answers_until_plain(asker, read):
    """Asks a plain question and returns what comes before its answer."""
    message = next(plain_questions)
    asker(message)
    before = []
    while True:
        answer = read()
        if answer[:2] == message[:2]:
            if answer[3] & 15 or answer[6:8] != b"\0\1":
                faults.append(f"the plain question got {answer.hex()}")
            return before
        before.append(answer)


def judge(what, due, answers):
    got = [answer[3] & 15 if answer[2] & 0x80 else "no response" for answer in answers]
    right = {SILENCE: got == [], ANY_CODE: len(got) <= 1 and "no response" not in got}.get(due, got == [due])
    if not right:
        faults.append(f"{what}: {got} for {due}")


datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagrams.settimeout(10)
datagrams.connect(RESOLVER)


def although_refused(call, *arguments):
    """What comes in fragments is refused by ICMP, which the socket says once, to whatever it is asked for next."""
    try:
        return call(*arguments)
    except ConnectionRefusedError:
        return call(*arguments)


def after_it_by_datagram():
    send = lambda message: although_refused(datagrams.send, message)
    return answers_until_plain(send, lambda: although_refused(datagrams.recv, 65536))


for what, message, due in kinds():
    count += 1
    datagrams.send(message)
    judge(what, ANY_CODE if len(message) > 1380 else due, after_it_by_datagram())


def whole(stream, length):
    data = b""
    while len(data) < length:
        more = stream.recv(length - len(data))
        if not more:
            raise ConnectionError("the end")
        data += more
    return data


def read_message(stream):
    return whole(stream, struct.unpack(">H", whole(stream, 2))[0])


# By stream: an answer, or the stream's end where there is none.
for what, message, due in kinds():
    count += 1
    with socket.create_connection(RESOLVER, timeout=10) as stream:
        framed = lambda message: stream.sendall(struct.pack(">H", len(message)) + message)
        try:
            framed(message)
            # A length that no question has ends a stream.
            judge(what + " by stream", due, answers_until_plain(framed, lambda: read_message(stream)))
        except (ConnectionError, BrokenPipeError):
            if due not in (SILENCE, ANY_CODE) and len(message) <= 4096:
                faults.append(f"{what} by stream: its end for {due}")


def total(data):
    data += b"\0" * (len(data) % 2)
    value = sum(struct.unpack(f">{len(data) // 2}H", data))
    while value >> 16:
        value = (value & 0xFFFF) + (value >> 16)
    return 0xFFFF ^ value


def packet(protocol, payload, fragment=0, options=b""):
    head = struct.pack(">2B3H2BH4s4s", 0x45 + len(options) // 4, 0, 20 + len(options) + len(payload), 7, fragment, 64, protocol, 0,
                       socket.inet_aton(OWN), socket.inet_aton(RESOLVER[0])) + options
    return head[:10] + struct.pack(">H", total(head)) + head[12:] + payload


def udp(length=None, source=40000, port=53, body=header() + question()):
    return struct.pack(">4H", source, port, 8 + len(body) if length is None else length, 0) + body


def tcp(flags, offset=5, port=53, body=b""):
    return struct.pack(">2H2I2B3H", 40001, port, 1, 0, offset << 4, flags, 1000, 0, 0) + body


raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
packets = [packet(17, udp(length)) for length in (0, 1, 7, 8, 9, 20, 1000, 65535)]
packets += [packet(17, udp(source=0)), packet(17, udp()[:7]), packet(17, b""), packet(17, udp(port=54)), packet(17, udp(), 0x2000)]
packets += [packet(17, udp(), 0x2001), packet(17, udp(), 1), packet(17, udp(), options=b"\x01" * 40), packet(47, udp())]
packets += [packet(6, tcp(flags)) for flags in (0, 1, 3, 4, 6, 0x12, 0x29, 0x3F, 0xFF)]
packets += [packet(6, tcp(2, offset)) for offset in (0, 1, 4, 6, 15)]
packets += [packet(6, tcp(2)[:length]) for length in (0, 1, 13, 19)]
packets += [packet(6, tcp(2, port=54)), packet(6, tcp(2), 0x2000), packet(6, tcp(2, body=b"x" * 1000))]
packets += [packet(6, tcp(2, 10, body=options)) for options in (b"\x02\x00" + bytes(18), b"\xfe\xff" * 10, b"\x05" * 20, b"\x02\x04\0\0" + bytes(16))]
for bytes_of_it in packets:
    count += 1
    raw.sendto(bytes_of_it, RESOLVER)
    after_it_by_datagram()

print(*faults, sep="\n")
print(count, "kinds")
