//! [`Request`]: what a server has received, as the page needs it.

use std::collections::HashMap;

/// The most bytes of a form. A server need not read more: a longer one is refused.
pub const MAX_BODY: usize = 1 << 20;

/// A request for the page.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Request<'a> {
    /// The method, in upper case.
    pub method: &'a str,
    /// The path below the place where the page is mounted, as `/record/…`.
    pub path: &'a str,
    /// The query, as it came.
    pub query: &'a str,
    /// The headers, with names in any case.
    pub headers: Vec<(&'a [u8], &'a [u8])>,
    /// The body.
    pub body: &'a [u8],
    /// The path where the page is mounted, as `/ops`; empty for the root.
    pub mount: &'a str,
    /// Whether it came by HTTPS, so that cookies may be kept to it.
    pub is_secure: bool,
    /// Who asks, for the log.
    pub who: Option<&'a str>,
    /// Whether this operator may resolve and release, or only look.
    pub may_change: bool,
}

impl<'a> Request<'a> {
    /// A request with this method. The other members may be set; they begin empty, and an operator may change records.
    pub fn new(method: &'a str, path: &'a str, query: &'a str) -> Self {
        let (headers, body, mount, is_secure, who, may_change) = (vec![], &b""[..], "", false, None, true);
        Self { method, path, query, headers, body, mount, is_secure, who, may_change }
    }

    /// A GET.
    pub fn get(path: &'a str, query: &'a str) -> Self {
        Self::new("GET", path, query)
    }

    /// The path, part by part.
    pub(super) fn parts(&self) -> Vec<&'a str> {
        self.path.split('/').filter(|part| !part.is_empty()).collect()
    }

    /// The only header of this name; `None` where it is not text, or came twice.
    pub(crate) fn header(&self, name: &str) -> Option<&'a str> {
        let mut found = self.headers.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name.as_bytes()));
        match (found.next(), found.next()) {
            (Some((_, value)), None) => std::str::from_utf8(value).ok(),
            _ => None,
        }
    }

    /// A cookie; over HTTP/2 they may come in several headers.
    pub(crate) fn cookie(&self, name: &str) -> Option<&'a str> {
        let headers = self.headers.iter().filter(|(other, _)| other.eq_ignore_ascii_case(b"cookie"));
        let cookies =
            headers.filter_map(|(_, value)| std::str::from_utf8(value).ok()).flat_map(|value| value.split(';'));
        cookies
            .filter_map(|cookie| cookie.trim().split_once('='))
            .find(|(other, _)| *other == name)
            .map(|(_, value)| value)
    }

    pub(super) fn asked(&self) -> Fields {
        Fields::of(self.query.as_bytes())
    }

    /// The fields of its form.
    pub(super) fn form(&self) -> Fields {
        Fields::of(self.body)
    }
}

/// The fields of a query or a form; of several with one name the last.
pub(super) struct Fields(HashMap<String, String>);

impl Fields {
    fn of(encoded: &[u8]) -> Self {
        Self(form_urlencoded::parse(encoded).into_owned().collect())
    }

    /// Empty where there is none.
    pub(super) fn get(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }
}
