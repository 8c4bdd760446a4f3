//! Who may send a form, and what every answer says to the browser.

use super::page::Site;
use super::request::{MAX_BODY, Request};
use super::session::COOKIE;
use crate::http::Answer;

/// No script and no style but the page's own files; shown in no frame; its forms go to itself.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; \
                      form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// `no-referrer` would take the origin from forms too.
const HEADERS: [(&str, &str); 8] = [
    ("content-security-policy", POLICY),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "same-origin"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("cache-control", "no-store"),
    ("x-robots-tag", "noindex"),
];

/// - `keeps`: whether the browser gets a session, if it has none.
pub(super) fn protect(answer: &mut Answer, site: &Site, keeps: bool) {
    let mut add = |name: &str, value: &str| answer.headers.push((name.into(), value.into()));
    for (name, value) in HEADERS {
        add(name, value);
    }
    if keeps && site.session.is_new {
        let path = if site.mount.is_empty() { "/" } else { &site.mount };
        let secure = if site.is_secure { "; Secure" } else { "" };
        add("set-cookie", &format!("{COOKIE}={}; Path={path}; HttpOnly; SameSite=Strict{secure}", site.session.id));
    }
}

/// Whether a form is the page's own, sent by the browser that it was shown to; if not, why.
pub(super) fn is_own_form(request: &Request<'_>, site: &Site) -> Result<(), &'static str> {
    if request.body.len() > MAX_BODY {
        return Err("The form is too large.");
    }
    let kind = request.header("content-type").unwrap_or_default();
    if !kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/x-www-form-urlencoded") {
        return Err("It is not a form.");
    }
    let host = request.header("host");
    // Browsers say where a form comes from, each in its way; one that says nothing is not known to be ours.
    let is_ours = match (request.header("sec-fetch-site"), request.header("origin")) {
        (Some(site), _) => site == "same-origin",
        (None, Some(origin)) => {
            let at = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
            at.is_some_and(|at| host.is_some_and(|host| host.eq_ignore_ascii_case(at)))
        }
        (None, None) => false,
    };
    if !is_ours {
        return Err("It comes from another site.");
    }
    if site.session.is_new {
        return Err("Your browser sent no cookie with it: allow cookies here, then open the record again.");
    }
    if !is_equal(request.form().get("token"), &site.token()) {
        return Err("It is not from a page that you have opened: open the record again.");
    }
    Ok(())
}

/// Takes as long for any two texts of one length.
pub(crate) fn is_equal(one: &str, other: &str) -> bool {
    one.len() == other.len() && one.bytes().zip(other.bytes()).fold(0, |all, (one, other)| all | (one ^ other)) == 0
}
