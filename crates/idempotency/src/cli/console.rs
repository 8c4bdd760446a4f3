//! `console`: the operator's page, on this machine alone.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::Run;
use super::exit::{Failure, usage};
use crate::console::{Console, MAX_BODY, Request, is_equal};
use crate::fingerprint::hex;
use crate::http::Answer;
use crate::record::Token;

/// The cookie of a browser that came with the token.
const COOKIE: &str = "idempotency-operator";

const ONCE: &str =
    "The address that the command has printed works once, in one browser. Start it again for another one.";

/// What all connections share.
struct Served {
    console: Console,
    /// What the address has, once, and what the browser has in its place from then on.
    token: String,
    is_used: AtomicBool,
    secret: String,
    at: SocketAddr,
    who: String,
}

/// Serves the page until it is stopped.
pub(super) async fn console(run: &mut Run, bind: IpAddr, port: u16) -> Result<(), Failure> {
    if !bind.is_loopback() {
        return Err(usage(format!(
            "{bind} can be reached from other machines, and this page has no TLS and knows no users: forward a port to it (ssh \
             -L), or mount the page in an application"
        )));
    }
    let listener = TcpListener::bind((bind, port)).await?;
    let served = Arc::new(Served {
        console: Console::new(run.engine.clone()),
        token: secret(),
        is_used: AtomicBool::new(false),
        secret: secret(),
        at: listener.local_addr()?,
        who: std::env::var("USER").or_else(|_| std::env::var("LOGNAME")).unwrap_or_default(),
    });
    let url = format!("http://{}/enter?token={}", served.at, served.token);
    run.streams.print(&if run.json { format!("{}\n", json!({ "url": url })) } else { format!("{url}\n") })?;
    run.streams.tell("Open this address, which works once, on this machine. Ctrl-C ends the page.")?;
    // Dropped with this future, with all that is under way.
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await?;
        let served = served.clone();
        let service = service_fn(move |request| {
            let served = served.clone();
            async move { Ok::<_, Infallible>(served.answer(request).await) }
        });
        // A connection that breaks is its browser's business.
        connections
            .spawn(async move { drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await) });
        while connections.try_join_next().is_some() {}
    }
}

/// 128 bits.
fn secret() -> String {
    hex(&Token::random().0)
}

impl Served {
    async fn answer(&self, request: hyper::Request<Incoming>) -> hyper::Response<Full<Bytes>> {
        let (parts, body) = request.into_parts();
        let body = Limited::new(body, MAX_BODY + 1).collect().await.map(|body| body.to_bytes());
        let query = parts.uri.query().unwrap_or_default();
        let mut asked = Request::new(parts.method.as_str(), parts.uri.path(), query);
        asked.headers =
            parts.headers.iter().map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes())).collect();
        asked.who = Some(&self.who);
        let answer = match &body {
            // A name that leads here is not ours: it may be another site's.
            _ if !self.is_own_host(&asked) => Console::forbidden(&asked),
            Err(_) => Answer { status: 413, ..Answer::default() },
            Ok(_) if asked.path == "/enter" => self.enter(&asked),
            Ok(body) if self.is_known(&asked) => {
                asked.body = body;
                self.console.answer(&asked).await
            }
            Ok(_) => Console::refuse(&asked, ONCE),
        };
        response(answer)
    }

    /// Exchanges the token for a cookie.
    fn enter(&self, asked: &Request<'_>) -> Answer {
        let is_it = asked.method == "GET"
            && asked.query.strip_prefix("token=").is_some_and(|token| is_equal(token, &self.token));
        let is_known = self.is_known(asked);
        if !is_known && (!is_it || self.is_used.swap(true, Ordering::SeqCst)) {
            return Console::refuse(asked, ONCE);
        }
        let mut headers =
            vec![(b"location".to_vec(), b"/records".to_vec()), (b"cache-control".into(), b"no-store".into())];
        if !is_known {
            let cookie = format!("{COOKIE}={}; Path=/; HttpOnly; SameSite=Strict", self.secret);
            headers.push((b"set-cookie".into(), cookie.into()));
        }
        Answer { status: 303, headers, body: vec![] }
    }

    fn is_known(&self, asked: &Request<'_>) -> bool {
        asked.cookie(COOKIE).is_some_and(|secret| is_equal(secret, &self.secret))
    }

    fn is_own_host(&self, asked: &Request<'_>) -> bool {
        asked
            .header("host")
            .is_some_and(|host| host == self.at.to_string() || host == format!("localhost:{}", self.at.port()))
    }
}

fn response(answer: Answer) -> hyper::Response<Full<Bytes>> {
    let mut response = hyper::Response::builder().status(answer.status);
    for (name, value) in answer.headers {
        response = response.header(name, value);
    }
    response.body(Full::new(answer.body.into())).unwrap_or_default()
}
