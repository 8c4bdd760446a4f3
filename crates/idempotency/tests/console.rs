//! The operator's page, asked without a server: what it shows and hides, who may send its forms, and what they do.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::warnings::Warnings;
use idempotency::clock::{Clock, FakeClock};
use idempotency::console::{Console, Request};
use idempotency::engine::{Begun, Call, Verdict};
use idempotency::http::{Answer, Replay, store_answer};
use idempotency::stores::MemoryStore;
use idempotency::{AfterCrash, Fingerprint, Idempotency, Key, Operation, Options, Scope, StorageKey};

type Header = (&'static [u8], &'static [u8]);

const FORM: Header = (b"content-type", b"application/x-www-form-urlencoded");
const OWN: Header = (b"sec-fetch-site", b"same-origin");

struct Page {
    console: Console,
    engine: Idempotency,
    clock: FakeClock,
    cookie: String,
}

impl Page {
    fn new() -> Self {
        let clock = FakeClock::default();
        let engine = Idempotency::new(MemoryStore::with_clock(Arc::new(clock.clone())));
        let (console, cookie) = (Console::new(engine.clone()), format!("idempotency-console={}", "7".repeat(32)));
        Self { console, engine, clock, cookie }
    }

    /// A record, as its attempt has left it.
    async fn record(&self, operation: Operation<'_>, key: &str, end: Option<Verdict>) -> StorageKey {
        let scope = Scope { namespace: "", operation, caller: None };
        let call = Call::new(&scope, &Key::new(key).unwrap(), Fingerprint([0; 32]));
        let engine = self.engine.with_options(Options::new().after_crash(AfterCrash::Refuse)).unwrap();
        let Begun::Run(attempt) = engine.begin(&call).await.unwrap() else { panic!("the key is free") };
        match end {
            Some(end) => drop(attempt.settle(end).await),
            // It goes on while the test lasts.
            None => std::mem::forget(attempt),
        }
        scope.storage_key(&Key::new(key).unwrap())
    }

    async fn unknown(&self) -> StorageKey {
        self.record(Operation::Http { method: "POST", path: b"/pay" }, "s3cret-key", Some(Verdict::Hold)).await
    }

    async fn get(&self, path: &str, query: &str) -> (u16, String) {
        let mut request = Request::get(path, query);
        request.headers = vec![(b"cookie", self.cookie.as_bytes())];
        said(self.console.answer(&request).await)
    }

    /// The token and the fence of a record's forms.
    async fn form(&self, key: &StorageKey) -> (String, String) {
        let (_, page) = self.get(&format!("/record/{key}"), "").await;
        (value(&page, "token"), value(&page, "fence"))
    }

    async fn post(&self, path: &str, body: &str, headers: &[(&[u8], &[u8])]) -> Answer {
        let mut request = Request::new("POST", path, "");
        request.headers = [&[(&b"cookie"[..], self.cookie.as_bytes())], headers].concat();
        request.body = body.as_bytes();
        request.who = Some("");
        self.console.answer(&request).await
    }

    async fn state(&self, key: &StorageKey) -> Option<(idempotency::State, Arc<[u8]>)> {
        self.engine.get(key).await.unwrap().map(|(held, _)| (held.record.state, held.record.result))
    }
}

fn said(answer: Answer) -> (u16, String) {
    (answer.status, String::from_utf8(answer.body).unwrap())
}

/// What a hidden field has.
fn value(page: &str, name: &str) -> String {
    let (_, rest) = page.split_once(&format!("name=\"{name}\" value=\"")).expect("the page has the field");
    rest.split_once('"').unwrap().0.to_owned()
}

fn header(answer: &Answer, name: &str) -> String {
    let found = answer.headers.iter().find(|(other, _)| other == name.as_bytes());
    found.map(|(_, value)| String::from_utf8(value.clone()).unwrap()).unwrap_or_default()
}

fn answered(status: u16, body: &str) -> Verdict {
    let headers = vec![(&b"content-type"[..], &b"text/plain"[..]), (b"x-request", b"r-1")];
    Verdict::Complete(store_answer(Answer { status, headers, body: body.as_bytes() }, &[], false).unwrap().into())
}

#[tokio::test]
async fn the_list_shows_operations_and_states_and_no_keys() {
    let page = Page::new();
    page.unknown().await;
    page.record(Operation::Call("shop.ship"), "s3cret-2", None).await;
    page.record(Operation::Http { method: "POST", path: b"/orders" }, "s3cret-3", Some(answered(201, "s3cret"))).await;
    for path in ["/", "/rows", ""] {
        let (status, list) = page.get(path, "").await;
        assert_eq!(status, 200);
        for shown in ["POST /pay", "shop.ship", "POST /orders", ">unknown<", ">in flight<", ">completed<"] {
            assert!(list.contains(shown), "{shown} is not in {list}");
        }
        assert!(!list.contains("s3cret"));
    }
    let (_, list) = page.get("/rows", "state=unknown").await;
    assert!(list.contains("<td class=\"operation\">POST /pay") && !list.contains("shop.ship</td>"));
    let (_, list) = page.get("/rows", "operation=shop.ship").await;
    assert!(!list.contains("POST /pay</td>") && list.contains("shop.ship</td>"));
    let (_, list) = page.get("/rows", "operation=other").await;
    assert!(list.contains("No record is like that."));
}

#[tokio::test]
async fn a_list_is_bounded_and_leads_to_the_rest() {
    let page = Page::new();
    for number in 0..250 {
        page.record(Operation::Call("count"), &number.to_string(), Some(answered(200, ""))).await;
    }
    let rows = |list: &str| list.matches("<td class=\"operation\">").count();
    let (_, list) = page.get("/rows", "").await;
    assert_eq!(rows(&list), 100);
    assert!(list.contains("?rows=200") && list.contains("200+"), "{list}");
    let (_, list) = page.get("/rows", "state=completed&rows=200").await;
    assert_eq!(rows(&list), 200);
    let (_, next) = list.split_once("id=\"next\" href=\"/records?").expect("there is a next part");
    let (_, rest) =
        page.get("/rows", &next.split_once('"').unwrap().0.replace("&#38;", "&").replace("&amp;", "&")).await;
    assert_eq!(rows(&rest), 50);
}

#[tokio::test]
async fn a_story_shows_key_and_body_where_they_are_asked_for() {
    let page = Page::new();
    let operation = Operation::Http { method: "POST", path: b"/orders" };
    let key = page.record(operation, "s3cret-key", Some(answered(201, "s3cret-body"))).await;
    let story = async |query: &str| page.get(&format!("/record/{key}"), query).await.1;
    let plain = story("").await;
    assert!(plain.contains("x-request") && plain.contains("<code>201</code>") && plain.contains(&key.id()));
    assert!(!plain.contains("s3cret"));
    let shown = story("show=key").await;
    assert!(shown.contains("s3cret-key") && !shown.contains("s3cret-body"));
    let shown = story("show=key+body").await;
    assert!(shown.contains("s3cret-key") && shown.contains("s3cret-body"));
    assert_eq!(page.get(&format!("/record/{}", StorageKey([1; 32])), "").await.0, 404);
    assert_eq!(page.get("/record/../etc", "").await.0, 404);
}

#[tokio::test]
async fn text_of_strangers_is_no_markup() {
    let page = Page::new();
    let hostile = "<script>alert(1)</script>";
    let operation = format!("POST/\"{hostile}'\u{202e}");
    let key = page.record(Operation::Call(&operation), &format!("{hostile}\u{2066}"), Some(Verdict::Hold)).await;
    let (token, fence) = page.form(&key).await;
    let body = format!("token={token}&fence={fence}&kind=rust&value={hostile}%22&reason=%22{hostile}");
    let (status, refused) = said(page.post(&format!("/record/{key}/resolve"), &body, &[FORM, OWN]).await);
    assert_eq!(status, 422);
    let (_, list) = page.get("/", &format!("operation={hostile}%22&state=%22{hostile}")).await;
    let (_, story) = page.get(&format!("/record/{key}"), "show=key").await;
    for page in [refused, list, story] {
        assert!(page.contains("alert(1)") && !page.contains("<script>"), "{page}");
        assert!(page.contains("\\u{202e}") && !page.contains(['\u{202e}', '\u{2066}']), "{page}");
    }
}

#[tokio::test]
async fn every_answer_is_closed_to_other_sites() {
    let page = Page::new();
    for path in ["/", "/rows", "/console.css", "/console.js", "/icon.svg", "/nothing"] {
        let answer = page.console.answer(&Request::get(path, "")).await;
        let policy = header(&answer, "content-security-policy");
        assert!(policy.starts_with("default-src 'none'") && policy.contains("frame-ancestors 'none'"));
        assert!(!policy.contains("unsafe"));
        assert_eq!(header(&answer, "x-content-type-options"), "nosniff");
        assert_eq!(header(&answer, "cache-control"), "no-store");
        assert!(header(&answer, "set-cookie").ends_with("; Path=/; HttpOnly; SameSite=Strict"));
    }
    let mut secure = Request::get("/", "");
    (secure.is_secure, secure.mount) = (true, "/ops/");
    let answer = page.console.answer(&secure).await;
    assert!(header(&answer, "set-cookie").ends_with("; Path=/ops; HttpOnly; SameSite=Strict; Secure"));
    assert!(said(answer).1.contains("href=\"/ops/console.css\""));
    assert_eq!(page.console.answer(&Request::new("PUT", "/", "")).await.status, 405);
    assert_eq!(Console::forbidden(&Request::get("/", "")).status, 403);
}

#[tokio::test]
async fn a_form_of_another_s_changes_nothing() {
    let page = Page::new();
    let key = page.unknown().await;
    let (token, fence) = page.form(&key).await;
    let (path, body) = (format!("/record/{key}/release"), format!("token={token}&fence={fence}&reason=mine"));
    let foreign = body.replace(&token, &"0".repeat(token.len()));
    let refused: &[(&str, &[Header])] = &[
        (&body, &[FORM]),
        (&body, &[FORM, (b"sec-fetch-site", b"cross-site")]),
        (&body, &[FORM, (b"sec-fetch-site", b"same-site")]),
        (&body, &[FORM, (b"origin", b"https://evil.example"), (b"host", b"shop.example")]),
        (&body, &[FORM, (b"origin", b"null"), (b"host", b"shop.example")]),
        (&body, &[OWN, (b"content-type", b"text/plain")]),
        (&body, &[FORM, OWN, (b"cookie", b"idempotency-console=none")][..1]),
        (&foreign, &[FORM, OWN]),
    ];
    for (body, headers) in refused {
        assert_eq!(page.post(&path, body, headers).await.status, 403, "{headers:?}");
    }
    let other = Page {
        cookie: format!("idempotency-console={}", "8".repeat(32)),
        console: page.console.clone(),
        ..Page::new()
    };
    assert_eq!(other.post(&path, &body, &[FORM, OWN]).await.status, 403, "a token belongs to a cookie");
    let mut looks = Request::new("POST", &path, "");
    looks.headers = vec![(b"cookie", page.cookie.as_bytes()), FORM, OWN];
    (looks.body, looks.may_change) = (body.as_bytes(), false);
    assert_eq!(page.console.answer(&looks).await.status, 403, "who may only look changes nothing");
    assert!(page.state(&key).await.is_some());
    let own = [FORM, (&b"origin"[..], &b"https://shop.example"[..]), (b"host", b"shop.example")];
    assert_eq!(page.post(&path, &body, &own).await.status, 303);
    assert!(page.state(&key).await.is_none());
}

#[tokio::test]
async fn a_record_is_resolved_with_an_answer_and_a_reason_that_is_logged() {
    let (page, warnings) = (Page::new(), Warnings::default());
    let key = page.unknown().await;
    let _here = tracing::subscriber::set_default(warnings.clone()); // the test's runtime is this one thread
    let (token, fence) = page.form(&key).await;
    let path = format!("/record/{key}/resolve");
    let form = format!("token={token}&fence={fence}&kind=answer&status=201&content_type=application/json&body=%7B%7D");
    let (status, refused) = said(page.post(&path, &format!("{form}&reason=+"), &[FORM, OWN]).await);
    assert!(status == 422 && refused.contains("Say why"), "{refused}");
    assert!(refused.contains("value=\"201\"") && refused.contains(">{}</textarea>"), "what was typed is still there");
    assert!(warnings.words().is_empty());
    let answer = page.post(&path, &format!("{form}&reason=the+bank%0Ahas+it"), &[FORM, OWN]).await;
    assert_eq!((answer.status, header(&answer, "location")), (303, format!("/record/{key}?did=resolve")));
    let (_, result) = page.state(&key).await.unwrap();
    let stored = Replay::of(&result).unwrap().answer;
    assert_eq!((stored.status, stored.body), (201, &b"{}"[..]));
    let line = warnings.words();
    assert_eq!(line.lines().count(), 1);
    for said in [&*key.id(), &fence, r#""the bank\nhas it""#, "an answer 201 of 2 bytes", "resolved"] {
        assert!(line.contains(said), "{said} is not in {line}");
    }
    assert!(!line.contains("s3cret"));
}

#[tokio::test]
async fn a_record_that_has_changed_is_left_alone() {
    let page = Page::new();
    let operation = Operation::Http { method: "POST", path: b"/pay" };
    let key = page.unknown().await;
    let (token, fence) = page.form(&key).await;
    let body = format!("token={token}&fence={fence}&reason=why");
    let release = format!("/record/{key}/release");
    assert_eq!(page.post(&release, &body, &[FORM, OWN]).await.status, 303);
    assert_eq!(page.post(&release, &body, &[FORM, OWN]).await.status, 404, "it is gone");
    page.clock.advance(Duration::from_millis(1));
    page.record(operation, "s3cret-key", Some(Verdict::Hold)).await;
    let (status, stale) = said(page.post(&release, &body, &[FORM, OWN]).await);
    assert!(status == 409 && stale.contains("has changed since you looked"), "{stale}");
    assert_ne!(page.form(&key).await.1, fence, "the page shows it as it stands now");
    assert!(page.state(&key).await.is_some());
    let live = page.record(Operation::Call("ship"), "k", None).await;
    let (_, story) = page.get(&format!("/record/{live}"), "").await;
    assert!(!story.contains("<form method=\"post\""), "what an attempt works on is not to be decided");
    let fence = page.engine.get(&live).await.unwrap().unwrap().0.record.fence;
    let body = format!("token={token}&fence={fence}&reason=why");
    assert_eq!(page.post(&format!("/record/{live}/release"), &body, &[FORM, OWN]).await.status, 409);
}

#[tokio::test]
async fn what_a_form_can_t_mean_is_refused_with_a_word() {
    let page = Page::new();
    let key = page.unknown().await;
    let (token, fence) = page.form(&key).await;
    for (fields, word) in [
        ("kind=answer&status=99", "from 200 to 599"),
        ("kind=answer&status=x", "from 200 to 599"),
        ("kind=answer&status=204&body=x", "has no body"),
        ("kind=answer&status=200&content_type=a%0Ab", "content type"),
        ("kind=rust&value=%7B", "not JSON"),
        ("kind=python&value=1e300", "too large"),
        ("kind=other", "Say what a repeat gets"),
        ("", "Say what a repeat gets"),
    ] {
        let body = format!("token={token}&fence={fence}&reason=why&{fields}");
        let (status, page) = said(page.post(&format!("/record/{key}/resolve"), &body, &[FORM, OWN]).await);
        assert!(status == 422 && page.contains(word), "{fields}: {page}");
    }
    let body = format!("token={token}&fence=&reason=why");
    assert_eq!(page.post(&format!("/record/{key}/release"), &body, &[FORM, OWN]).await.status, 422);
    assert_eq!(page.post("/record/x/release", &body, &[FORM, OWN]).await.status, 404);
}

#[tokio::test]
async fn a_lapsed_claim_says_for_how_long() {
    let page = Page::new();
    page.record(Operation::Call("ship"), "k", None).await;
    // Its attempt is asleep, like a process that was stopped.
    let before = page.clock.now();
    page.clock.advance(Duration::from_secs(90));
    assert_eq!(page.clock.now() - before, 90_000_000);
    let (_, list) = page.get("/rows", "state=lapsed").await;
    assert!(list.contains("ended 1m 0s ago"), "{list}");
}

#[cfg(feature = "axum")]
mod axum_router {
    use super::*;
    use ::axum::Router;
    use ::axum::body::Body;
    use ::http::request::Parts;
    use idempotency::console;
    use tower::ServiceExt;

    fn app(page: &Page) -> Router {
        let allow = |parts: &Parts| Some(parts.headers.get("x-user")?.to_str().ok()?.to_owned());
        Router::new().nest("/ops/keys", console::router(page.engine.clone(), allow))
    }

    async fn asked(app: &Router, uri: &str, user: Option<&str>) -> (u16, String) {
        let mut request = ::http::Request::get(uri);
        if let Some(user) = user {
            request = request.header("x-user", user);
        }
        let answer = app.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        let (parts, body) = answer.into_parts();
        let body = ::axum::body::to_bytes(body, 1 << 20).await.unwrap();
        (parts.status.as_u16(), String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn stands_where_it_is_nested_and_asks_who_is_there() {
        let page = Page::new();
        let key = page.unknown().await;
        let app = app(&page);
        for uri in ["/ops/keys", "/ops/keys/records"] {
            let (status, list) = asked(&app, uri, Some("ann")).await;
            assert_eq!(status, 200, "{uri}");
            assert!(
                list.contains(&format!("href=\"/ops/keys/record/{}", &key.to_string()[..32])) && list.contains(">ann<"),
                "{list}"
            );
        }
        let (status, refused) = asked(&app, &format!("/ops/keys/record/{key}"), None).await;
        assert!(status == 403 && !refused.contains("/pay"));
        assert_eq!(asked(&app, "/ops/keys/console.css", None).await.0, 200);
    }
}
