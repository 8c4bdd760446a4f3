//! [`Session`]: what ties a form to the browser that it was shown to.

use super::request::Request;
use crate::fingerprint::{Digest, hex};
use crate::record::Token;

/// The cookie that forms belong to.
pub(super) const COOKIE: &str = "idempotency-console";

/// A browser's session, made anew for one that has none.
#[derive(Clone, Debug)]
pub(super) struct Session {
    pub(super) id: String,
    pub(super) is_new: bool,
}

impl Session {
    pub(super) fn of(request: &Request<'_>) -> Self {
        let is_id = |id: &&str| id.len() == 32 && id.bytes().all(|digit| digit.is_ascii_hexdigit());
        match request.cookie(COOKIE).filter(is_id) {
            Some(id) => Self { id: id.to_owned(), is_new: false },
            None => Self { id: hex(&Token::random().0), is_new: true },
        }
    }

    /// What its forms carry: only who can read the cookie or the form knows it.
    pub(super) fn token(&self, who: Option<&str>) -> String {
        let digest = Digest::new("idempotency console form 1").part(self.id.as_bytes()).option(who.map(str::as_bytes));
        hex(&digest.finish()[..16])
    }
}
