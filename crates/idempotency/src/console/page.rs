//! What all pages have in common, and the ones that only say something.

use askama::Template;

use super::request::Request;
use super::session::Session;
use crate::error::StoreError;
use crate::http::Answer;

/// Where a page stands, and who looks at it.
#[derive(Clone, Debug)]
pub(super) struct Site {
    /// Without a slash at its end.
    pub(super) mount: String,
    pub(super) who: Option<String>,
    pub(super) may_change: bool,
    pub(super) is_secure: bool,
    pub(super) session: Session,
}

impl Site {
    pub(super) fn of(request: &Request<'_>) -> Self {
        Self {
            mount: request.mount.trim_end_matches('/').to_owned(),
            who: request.who.filter(|who| !who.is_empty()).map(str::to_owned),
            may_change: request.may_change,
            is_secure: request.is_secure,
            session: Session::of(request),
        }
    }

    /// What its forms carry.
    pub(super) fn token(&self) -> String {
        self.session.token(self.who.as_deref())
    }

    /// Who, for the log.
    pub(super) fn operator(&self) -> &str {
        self.who.as_deref().unwrap_or("somebody who is not named")
    }
}

/// A page as an answer.
pub(super) fn html(status: u16, page: &impl Template) -> Answer {
    match page.render() {
        Ok(page) => text(status, "text/html; charset=utf-8", page),
        Err(error) => text(500, "text/plain; charset=utf-8", error.to_string()),
    }
}

/// The files that pages are made up with: they say nothing, so that they are anybody's.
pub(super) fn file(request: &Request<'_>) -> Option<Answer> {
    let (content_type, file) = match request.parts()[..] {
        ["console.css"] => ("text/css; charset=utf-8", include_str!("../../templates/console/console.css")),
        ["console.js"] => ("text/javascript; charset=utf-8", include_str!("../../templates/console/console.js")),
        ["icon.svg"] => ("image/svg+xml", include_str!("../../templates/console/icon.svg")),
        _ => return None,
    };
    Some(text(200, content_type, file.to_owned()))
}

fn text(status: u16, content_type: &str, text: String) -> Answer {
    let body = text.into_bytes();
    let length = body.len().to_string();
    let headers = vec![("content-type", content_type), ("content-length", &length)];
    let headers = headers.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
    Answer { status, headers, body }
}

/// To another page, after a form.
pub(super) fn see_other(to: &str) -> Answer {
    let headers = vec![(b"location".into(), to.into()), (b"content-length".into(), b"0".into())];
    Answer { status: 303, headers, body: vec![] }
}

/// A page that says one thing.
#[derive(Template)]
#[template(path = "console/message.html")]
pub(super) struct Message<'a> {
    site: &'a Site,
    title: &'a str,
    words: &'a str,
    /// Whether there is a way back to the list.
    leads_back: bool,
}

impl<'a> Message<'a> {
    fn answer(site: &'a Site, status: u16, title: &'a str, words: &'a str) -> Answer {
        html(status, &Message { site, title, words, leads_back: status != 403 })
    }

    pub(super) fn no_page(site: &'a Site) -> Answer {
        Self::answer(site, 404, "There is no such page", "It may have been mistyped.")
    }

    pub(super) fn no_record(site: &'a Site) -> Answer {
        let words = "It has been released, it has expired, or it never was: a repeat with its key runs.";
        Self::answer(site, 404, "There is no such record", words)
    }

    pub(super) fn forbidden(site: &'a Site, why: &'a str) -> Answer {
        Self::answer(site, 403, "This page is for operators", why)
    }

    pub(super) fn only_looks(site: &'a Site) -> Answer {
        Self::answer(site, 403, "You may only look", "Nothing was changed: you may not resolve or release records.")
    }

    pub(super) fn refused_form(site: &'a Site, why: &'a str) -> Answer {
        let words = format!("Nothing was changed. {why}");
        html(403, &Message { site, title: "This form was refused", words: &words, leads_back: true })
    }

    pub(super) fn bad_method(site: &'a Site) -> Answer {
        Self::answer(site, 405, "This page can't do that", "It is read by GET, and its forms are sent by POST.")
    }

    pub(super) fn store_failed(site: &'a Site, error: &StoreError) -> Answer {
        let (title, words) = ("The store does not answer as it should", error.to_string());
        html(503, &Message { site, title, words: &words, leads_back: true })
    }
}
