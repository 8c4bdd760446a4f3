//! A layer inside of another: one attempt for a request, and one set of options.

use std::sync::Arc;

use ::http::Response;
use ::http::request::Parts;
use http_body::Body;

use super::answer::Refused;
use super::body::ResponseBody;
use super::layer::{Config, FingerprintBy, ScopeBy};
use super::path::path_of;
use super::request::Under;
use crate::http::Refusal;

impl Config {
    /// The first option in which an inner layer differs from the outer one that holds the attempt: it can't have its way.
    /// Which requests are protected, each says for itself.
    pub(super) fn differs_from(self: &Arc<Self>, outer: &Arc<Self>) -> Option<&'static str> {
        fn same<T: ?Sized>(one: &Option<Arc<T>>, other: &Option<Arc<T>>) -> bool {
            match (one, other) {
                (Some(one), Some(other)) => Arc::ptr_eq(one, other),
                (one, other) => one.is_none() && other.is_none(),
            }
        }
        if Arc::ptr_eq(self, outer) {
            return None;
        }
        // Each option by name, so that none is forgotten.
        let Self {
            idempotency,
            namespace,
            required: _,
            methods: _,
            key_header,
            key_format,
            scope,
            name,
            fingerprint,
            settle,
            redact,
            retry_after,
            disconnect_grace,
            max_request_bytes,
            max_response_bytes,
            max_in_flight,
            store_set_cookie,
            problem_docs,
            grpc_streams,
            inline,
        } = &**self;
        let scopes = match (scope, &outer.scope) {
            (ScopeBy::Asked(one), ScopeBy::Asked(other)) => Arc::ptr_eq(one, other),
            (one, other) => std::mem::discriminant(one) == std::mem::discriminant(other),
        };
        let fingerprints = match (fingerprint, &outer.fingerprint) {
            (FingerprintBy::Asked(one), FingerprintBy::Asked(other)) => Arc::ptr_eq(one, other),
            (one, other) => std::mem::discriminant(one) == std::mem::discriminant(other),
        };
        let are_same = [
            ("the engine", idempotency.shares_engine(&outer.idempotency)),
            ("with_options", idempotency.options() == outer.idempotency.options()),
            ("namespace", *namespace == outer.namespace),
            ("key_header", *key_header == outer.key_header),
            ("key_format", *key_format == outer.key_format),
            ("scope", scopes),
            ("name", same(name, &outer.name)),
            ("fingerprint", fingerprints),
            ("settle", same(settle, &outer.settle)),
            ("redact", same(redact, &outer.redact)),
            ("retry_after", *retry_after == outer.retry_after),
            ("disconnect_grace", *disconnect_grace == outer.disconnect_grace),
            ("max_request_bytes", *max_request_bytes == outer.max_request_bytes),
            ("max_response_bytes", *max_response_bytes == outer.max_response_bytes),
            ("max_in_flight", *max_in_flight == outer.max_in_flight),
            ("store_set_cookie", *store_set_cookie == outer.store_set_cookie),
            ("problem_docs", *problem_docs == outer.problem_docs),
            ("grpc_streams", *grpc_streams == outer.grpc_streams),
            ("inline", *inline == outer.inline),
        ];
        are_same.into_iter().find_map(|(option, is_same)| (!is_same).then_some(option))
    }
}

impl Under {
    /// The answer where the layer can't join the outer one because of an option.
    pub(super) fn apart<R: Body>(&self, parts: &Parts, option: &str) -> Response<ResponseBody<R>> {
        if self.tracker.may_say() {
            tracing::error!(
                "{} {}: two layers protect it, the inner one with another {option}, which the outer one would not follow; \
                 nothing runs. Leave the route out of the outer layer, or clone that layer and change no more than \
                 required and methods",
                parts.method,
                path_of(parts)
            );
        }
        Refused::new(parts, &self.config).answer(&Refusal::LAYERS_DIFFER.into())
    }
}
