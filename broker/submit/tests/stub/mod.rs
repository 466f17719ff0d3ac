//! A broker of a few lines: one thread per connection, answers from a closure, remembers what it
//! was asked. It can also drop a connection without an answer, or never answer.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::Value;

/// What was asked.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    /// Path and query.
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self
            .headers
            .iter()
            .find(|(n, _)| n.eq_ignore_ascii_case(name));
        found.map(|(_, v)| v.as_str())
    }

    pub fn is(&self, method: &str, path: &str) -> bool {
        let asked = self.target.split('?').next();
        self.method == method && asked == Some(path)
    }
}

/// What is answered.
pub enum Reply {
    /// A status and JSON.
    Json(u16, Value),
    /// A status, headers and bytes.
    Raw(u16, Vec<(&'static str, String)>, Vec<u8>),
    /// The connection is closed without a word.
    Drop,
    /// Nothing, ever; the connection stays open until the client closes it.
    Hang,
}

impl Reply {
    pub fn refuse(status: u16, code: &str) -> Self {
        let body = serde_json::json!({"code": code, "detail": "as the test wants it", "help": "do otherwise"});
        Self::Json(status, body)
    }
}

/// A running stub; its threads end with the test's process.
pub struct Stub {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Request>>>,
}

impl Stub {
    /// Starts a stub. The closure gets each request and how many like it (method and path) came
    /// before.
    pub fn start(answer: impl Fn(&Request, usize) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let seen: Arc<Mutex<Vec<Request>>> = Arc::default();
        let (remembered, answer) = (seen.clone(), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (seen, answer) = (remembered.clone(), answer.clone());
                std::thread::spawn(move || drop(serve(stream, &seen, &*answer)));
            }
        });
        Self { address, seen }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The requests so far, in order.
    pub fn seen(&self) -> Vec<Request> {
        self.seen.lock().unwrap().clone()
    }
}

fn serve(
    stream: TcpStream,
    seen: &Mutex<Vec<Request>>,
    answer: &dyn Fn(&Request, usize) -> Reply,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace().map(str::to_owned);
    let (Some(method), Some(target)) = (words.next(), words.next()) else {
        return Ok(());
    };
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        match line.trim().split_once(": ") {
            Some((name, value)) => headers.push((name.to_owned(), value.to_owned())),
            None => break,
        }
    }
    let mut request = Request {
        method,
        target,
        headers,
        body: String::new(),
    };
    let length = request
        .header("content-length")
        .and_then(|l| l.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body)?;
    request.body = String::from_utf8_lossy(&body).into_owned();

    let path = request
        .target
        .split('?')
        .next()
        .unwrap_or_default()
        .to_owned();
    let before = {
        let mut seen = seen.lock().unwrap();
        let before = seen.iter().filter(|r| r.is(&request.method, &path)).count();
        seen.push(request.clone());
        before
    };
    let (status, headers, body) = match answer(&request, before) {
        Reply::Json(status, value) => (status, Vec::new(), value.to_string().into_bytes()),
        Reply::Raw(status, headers, body) => (status, headers, body),
        Reply::Drop => return Ok(()),
        Reply::Hang => {
            // Ends when the client closes.
            return reader.read_to_end(&mut Vec::new()).map(drop);
        }
    };
    let mut stream = stream;
    write!(
        stream,
        "HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n",
        body.len()
    )?;
    for (name, value) in headers {
        write!(stream, "{name}: {value}\r\n")?;
    }
    stream.write_all(b"\r\n")?;
    stream.write_all(&body)?;
    stream.flush()
}
