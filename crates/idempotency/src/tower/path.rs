//! Where a request went.

use ::http::request::Parts;

/// The path as the client sent it.
pub(super) fn path_of(parts: &Parts) -> &str {
    // A nested router takes its prefix off the URI.
    #[cfg(feature = "axum")]
    if let Some(original) = parts.extensions.get::<::axum::extract::OriginalUri>() {
        return original.0.path();
    }
    parts.uri.path()
}
