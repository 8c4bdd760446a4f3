//! The one list of what the extension asks of the Python package. Each is imported when it is first used.

use pyo3::prelude::*;

use super::once::Once;

macro_rules! asked {
    ($($(#[$doc:meta])* $name:ident = $module:literal $attribute:literal;)*) => {$(
        $(#[$doc])*
        pub fn $name(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
            static FOUND: Once<Py<PyAny>> = Once::new();
            FOUND.import(py, $module, $attribute)
        }
    )*};
}

asked! {
    /// The package's logger.
    logger = "pyidempotent._lifecycle" "logger";

    // Errors.
    store_unavailable = "pyidempotent.exceptions" "IdempotencyStoreUnavailable";
    key_invalid = "pyidempotent.exceptions" "IdempotencyKeyInvalid";
    error = "pyidempotent.exceptions" "IdempotencyError";
    /// A result that can't be kept, and why.
    unstorable = "pyidempotent._values.results" "Unstorable";

    // Values.
    reduce = "pyidempotent._values.parts" "reduce";
    rebuild = "pyidempotent._values.parts" "rebuild";
    /// A stored form without what `redact=` takes out.
    redacted = "pyidempotent._values.results" "redacted";
    pack_exception = "pyidempotent._values.results" "pack_exception";
    unpack_exception = "pyidempotent._values.results" "unpack_exception";

    // Calls.
    /// The class of a key's scope, as running code sees it.
    scope = "pyidempotent._calls.current" "Scope";
    /// The end of work that has yet to be awaited.
    not_awaited = "pyidempotent._calls.flow" "not_awaited";
    /// Hands a completion to a transaction of Django's; whether one is open.
    settle_on_commit = "pyidempotent._calls.transactions" "settle_on_commit";
    /// What `scope=` returned, as bytes.
    caller_bytes = "pyidempotent._calls.function" "caller_bytes";
    /// Whether a value is a framework's, which is no argument of the call.
    is_framework_object = "pyidempotent._calls.function" "is_framework_object";
    /// Whether an exception says that Celery runs a task again.
    is_to_run_again = "pyidempotent._calls.tasks" "is_to_run_again";

    // Requests.
    key_missing = "pyidempotent._http.rules" "key_missing";
    too_large = "pyidempotent._http.rules" "too_large";
    anonymous_caller = "pyidempotent._http.rules" "anonymous_caller";
    caller_of = "pyidempotent._http.routes" "caller_of";
    path_of_scope = "pyidempotent._http.starlette" "path_of";
    path_of_environ = "pyidempotent._http.wsgi" "path_of";
}

/// An exception class of `pyidempotent.exceptions`, by name. Never on the way of a call that is answered.
pub fn exception<'py>(py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyAny>> {
    py.import("pyidempotent.exceptions")?.getattr(name)
}
