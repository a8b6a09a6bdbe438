//! A web application as containers run it, and what reaches it from outside.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use crate::wait::{self, SOON};
use crate::{Background, Container, Host};

/// Serves on PORT: NAME PORT. `/` is its name; `/headers` is what it was asked with; a POST is answered with the length and
/// digest of what came; `/socket` is a WebSocket that gives back each message behind its name; `/late?S` takes S seconds.
const SITE: &str = r#"
import base64, hashlib, json, socketserver, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

NAME = sys.argv[1]

class Site(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    def say(self, text):
        body = text.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_GET(self):
        if self.path == "/headers":
            return self.say(json.dumps(dict(self.headers)))
        if self.path.startswith("/late?"):
            time.sleep(float(self.path.split("?")[1]))
        if self.path == "/socket":
            return self.talk()
        if self.path.startswith("/bytes?"):
            count = int(self.path.split("?")[1])
            self.send_response(200)
            self.send_header("Content-Length", str(count))
            self.end_headers()
            block = bytes(65536)
            while count > 0:
                self.wfile.write(block[:count])
                count -= len(block)
            return
        self.say(NAME)
    def do_POST(self):
        digest, length = hashlib.sha256(), 0
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            while True:
                size = int(self.rfile.readline(), 16)
                block = self.rfile.read(size)
                self.rfile.readline()
                if size == 0:
                    break
                digest.update(block)
                length += size
        else:
            left = int(self.headers["Content-Length"])
            while left:
                block = self.rfile.read(min(left, 65536))
                if not block:
                    return
                digest.update(block)
                length += len(block)
                left -= len(block)
        self.say("%s %d %s" % (NAME, length, digest.hexdigest()))
    def talk(self):
        key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(key.encode()).digest()).decode())
        self.end_headers()
        self.wfile.flush()
        self.close_connection = True
        while True:
            head = self.rfile.read(2)
            if len(head) < 2 or head[0] & 15 == 8:
                return
            mask = self.rfile.read(4)
            text = bytes(b ^ mask[i % 4] for i, b in enumerate(self.rfile.read(head[1] & 127)))
            said = NAME.encode() + b" " + text
            self.wfile.write(bytes([0x81, len(said)]) + said)
            self.wfile.flush()
    def log_message(self, *words):
        pass

class Server(ThreadingHTTPServer):
    request_queue_size = 1024
    daemon_threads = True

Server(("", int(sys.argv[2])), Site).serve_forever()
"#;

/// A WebSocket that says something ten times a second and prints what comes back: ADDRESS PORT HOST.
const TALK: &str = r#"
import os, socket, sys, time
sock = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=10)
request = "GET /socket HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
sock.sendall((request % sys.argv[3]).encode())
lines = sock.makefile("rb")
assert b" 101 " in lines.readline(), "no WebSocket"
while lines.readline().strip():
    pass
number = 0
while True:
    number += 1
    text, mask = str(number).encode(), os.urandom(4)
    sock.sendall(bytes([0x81, 0x80 | len(text)]) + mask + bytes(b ^ mask[i % 4] for i, b in enumerate(text)))
    head = lines.read(2)
    if len(head) < 2:
        print("closed", flush=True)
        sys.exit(1)
    print(lines.read(head[1]).decode(), flush=True)
    time.sleep(0.1)
"#;

/// Uploads for so long and prints what was answered, and the digest of what was sent: ADDRESS PORT SECONDS.
const UPLOAD: &str = r#"
import hashlib, http.client, os, sys, time
digest, until = hashlib.sha256(), time.monotonic() + float(sys.argv[3])
def blocks():
    while time.monotonic() < until:
        block = os.urandom(16384)
        digest.update(block)
        yield block
        print("sent", flush=True)
        time.sleep(0.02)
connection = http.client.HTTPConnection(sys.argv[1], int(sys.argv[2]), timeout=30)
connection.request("POST", "/", blocks(), {"Transfer-Encoding": "chunked"}, encode_chunked=True)
answer = connection.getresponse()
print("answer", answer.status, answer.read().decode(), digest.hexdigest(), flush=True)
"#;

/// Somebody outside who uploads something for a while.
pub struct Upload(Background);

impl Upload {
    /// Starts to upload by way of `host`, from `from`, for so many seconds.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(from: &Host, host: &Host, port: u16, seconds: usize) -> Result<Self> {
        let mut command = from.command("python3");
        command.args(["-c", UPLOAD, host.address(), &port.to_string(), &seconds.to_string()]);
        Ok(Self(Background::start(&mut command, Path::new("/run/lab").join("upload"))?))
    }

    /// Waits until something of it is on its way.
    ///
    /// # Errors
    /// If it is not.
    pub fn has_begun(&mut self) -> Result<()> {
        wait::until_true("an upload", SOON, || {
            self.0.still_runs()?;
            Ok(self.0.printed()?.lines().count() > 3)
        })
    }

    /// Waits until it is over. Who took it, and whether that got what was sent.
    ///
    /// # Errors
    /// If it failed.
    pub fn ended(&mut self) -> Result<(String, bool)> {
        ensure!(self.0.ended(SOON * 9)?.success(), "{}", self.0.printed()?);
        let printed = self.0.printed()?;
        let last = printed.lines().last().with_context(|| "it said nothing")?;
        let words: Vec<_> = last.split(' ').collect();
        let ["answer", "200", who, _, got, sent] = words[..] else { anyhow::bail!("{last}") };
        Ok((who.to_owned(), got == sent))
    }
}

/// Serves the application in a container, and waits until it takes connections.
///
/// # Errors
/// If it does not start.
pub fn serve_site(container: &Container, name: &str, port: u16) -> Result<Background> {
    let port = port.to_string();
    let mut server = container.start(&["python3", "-c", SITE, name, &port])?;
    let url = format!("http://127.0.0.1:{port}/");
    wait::until_true("the application", SOON, || {
        server.still_runs()?;
        Ok(container.exec(&["curl", "-sf", "--noproxy", "*", &url])?.code == 0)
    })?;
    Ok(server)
}

/// The number of a host's nginx.
///
/// # Errors
/// If there is none.
pub fn nginx_master(host: &Host) -> Result<String> {
    let file = host.state_dir().join("nginx/nginx.pid");
    Ok(std::fs::read_to_string(&file).with_context(|| file.display().to_string())?.trim().to_owned())
}

/// Its workers, once those from before a reload have gone: for a tenth of a second both are there.
///
/// # Errors
/// If there are not as many as it is to have.
pub fn nginx_workers(host: &Host) -> Result<Vec<String>> {
    let each_processor: usize = host.exec(&["getconf", "_NPROCESSORS_ONLN"])?.ok()?.stdout.trim().parse()?;
    wait::until("a worker for each processor", SOON, || {
        let master = nginx_master(host)?;
        let children = std::fs::read_to_string(format!("/proc/{master}/task/{master}/children"))?;
        let workers: Vec<_> = children.split_whitespace().map(str::to_owned).collect();
        Ok(Some(workers).filter(|workers| workers.len() == each_processor))
    })
}

/// Fetches a page from a host outside: curl with these words, of which the last is the URL. What it got.
///
/// # Errors
/// If there is no answer of 200.
pub fn curl(host: &Host, words: &[&str]) -> Result<String> {
    let base = ["curl", "-sSf", "--max-time", "10"];
    // By way of a proxy only if that is what is tested.
    let direct: &[&str] = if words.contains(&"-x") { &[] } else { &["--noproxy", "*"] };
    Ok(host.exec(&[&base[..], direct, words].concat())?.ok()?.stdout)
}

/// The status that curl is answered with, and what stands in the answer's header.
///
/// # Errors
/// If there is no answer at all.
pub fn status(host: &Host, words: &[&str]) -> Result<(u16, String)> {
    let base = ["curl", "-s", "--max-time", "10", "--noproxy", "*", "-o", "/dev/null", "-D", "-"];
    let header = host.exec(&[&base[..], words].concat())?.ok()?.stdout;
    let last = header.rfind("HTTP/").map(|at| &header[at..]).with_context(|| header.clone())?;
    let code = last.split_whitespace().nth(1).and_then(|code| code.parse().ok()).with_context(|| header.clone())?;
    Ok((code, last.to_ascii_lowercase()))
}

/// Somebody outside who talks by a WebSocket all the time.
pub struct Talk(Background);

impl Talk {
    /// Starts to talk to `name` by way of `host`, from `from`.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(from: &Host, host: &Host, port: u16, name: &str) -> Result<Self> {
        let mut command = from.command("python3");
        command.args(["-c", TALK, host.address(), &port.to_string(), name]);
        Ok(Self(Background::start(&mut command, Path::new("/run/lab").join(format!("talk-{name}")))?))
    }

    /// Who has answered, and how often; all must have been the same one.
    ///
    /// # Errors
    /// If it has ended, or somebody else answers.
    pub fn answered(&mut self) -> Result<(String, usize)> {
        self.0.still_runs()?;
        let printed = self.0.printed()?;
        let lines: Vec<_> = printed.lines().collect();
        let Some(first) = lines.first().and_then(|line| line.split(' ').next()) else { return Ok((String::new(), 0)) };
        let as_said = lines.iter().enumerate().all(|(at, line)| *line == format!("{first} {}", at + 1));
        ensure!(as_said, "{printed}");
        Ok((first.to_owned(), lines.len()))
    }

    /// Waits for so many more answers.
    ///
    /// # Errors
    /// If they do not come.
    pub fn goes_on(&mut self, count: usize) -> Result<()> {
        let (_, before) = self.answered()?;
        wait::until_true("answers by WebSocket", SOON, || Ok(self.answered()?.1 >= before + count))
    }
}
