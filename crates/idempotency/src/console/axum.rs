//! The page as a router of axum's.

use std::sync::Arc;

use ::axum::Router;
use ::axum::body::{Body, to_bytes};
use ::axum::extract::OriginalUri;
use ::axum::response::Response;
use ::http::header::{HeaderName, HeaderValue};
use ::http::request::Parts;
use ::http::{StatusCode, Uri};

use super::request::{MAX_BODY, Request};
use super::serving::Console;
use crate::engine::Idempotency;
use crate::http::Answer;

/// The operator's page as a router, to be nested where it shall stand.
///
/// - `allow`: who asks. `Some` is an operator and the name that is logged with what they change, which may be empty; `None`
///   gets a 403. It sees the request's headers and its extensions, where a layer further out may have put a user.
///
/// ```
/// use axum::{Router, http::request::Parts};
/// use idempotency::{Idempotency, console, stores::MemoryStore};
///
/// #[derive(Clone)]
/// struct User { name: String, is_operator: bool }   // what your login has put there
///
/// fn operator(parts: &Parts) -> Option<String> {
///     let user = parts.extensions.get::<User>()?;
///     user.is_operator.then(|| user.name.clone())
/// }
///
/// let engine = Idempotency::new(MemoryStore::new());
/// let app: Router = Router::new().nest("/ops/idempotency", console::router(engine, operator));
/// ```
pub fn router<S>(engine: Idempotency, allow: impl Fn(&Parts) -> Option<String> + Send + Sync + 'static) -> Router<S>
where
    S: Clone + Send + Sync + 'static,
{
    let (console, allow) = (Console::new(engine), Arc::new(allow));
    Router::new().fallback(move |request: ::axum::extract::Request| {
        let (console, allow) = (console.clone(), allow.clone());
        async move { answer(&console, &*allow, request).await }
    })
}

async fn answer(
    console: &Console,
    allow: &(dyn Fn(&Parts) -> Option<String> + Send + Sync),
    request: ::axum::extract::Request,
) -> Response {
    let (parts, body) = request.into_parts();
    let who = allow(&parts);
    // The path as it came, before a nested router's.
    let original = parts.extensions.get::<OriginalUri>().map_or(&parts.uri, |OriginalUri(original)| original);
    let body = match to_bytes(body, MAX_BODY + 1).await {
        Ok(body) => body,
        Err(_) => return status(StatusCode::PAYLOAD_TOO_LARGE),
    };
    let mut asked = Request::new(parts.method.as_str(), parts.uri.path(), parts.uri.query().unwrap_or_default());
    asked.mount = mount(original, asked.path);
    asked.headers = parts.headers.iter().map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes())).collect();
    // Over HTTP/2 the host stands in the URI.
    if let Some(authority) = original.authority().filter(|_| !parts.headers.contains_key("host")) {
        asked.headers.push((b"host", authority.as_str().as_bytes()));
    }
    asked.is_secure = original.scheme_str() == Some("https");
    asked.body = &body;
    asked.who = who.as_deref();
    response(if who.is_some() { console.answer(&asked).await } else { Console::forbidden(&asked) })
}

/// Where the router is nested.
fn mount<'a>(original: &'a Uri, below: &str) -> &'a str {
    let whole = original.path();
    whole.strip_suffix(below).unwrap_or(whole).trim_end_matches('/')
}

fn response(answer: Answer) -> Response {
    let mut response = Response::new(Body::from(answer.body));
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    for (name, value) in answer.headers {
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(&name), HeaderValue::from_bytes(&value)) {
            response.headers_mut().append(name, value);
        }
    }
    response
}

fn status(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}
