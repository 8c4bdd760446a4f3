//! Whose key it is: the headers that say who calls.

use crate::fingerprint::{Digest, hex};

/// Headers that say whose a request is, in order: credentials that a client sends, and the names that an authenticating
/// proxy or gateway adds, as its vendor documents them. A request that has one of them, and no scope, is refused.
pub const CALLERS: [&str; 80] = [
    "api-key",
    "apikey",
    "authorization",
    "cf-access-authenticated-user-email", // Cloudflare Access
    "cf-access-client-id",
    "cf-access-jwt-assertion",
    "client-cert", // RFC 9440
    "job-token",
    "ocp-apim-subscription-key", // Azure API Management
    "private-token",
    "proxy-authorization",
    "remote-email", // Authelia
    "remote-user",
    "ssl-client-cert", // ingress-nginx
    "ssl-client-subject-dn",
    "tailscale-user-login",   // Tailscale Serve
    "teleport-jwt-assertion", // Teleport
    "x-access-token",
    "x-amz-security-token",
    "x-amzn-mtls-clientcert", // AWS load balancers
    "x-amzn-mtls-clientcert-leaf",
    "x-amzn-mtls-clientcert-subject",
    "x-amzn-oidc-accesstoken",
    "x-amzn-oidc-data",
    "x-amzn-oidc-identity",
    "x-api-key",
    "x-api-token",
    "x-apigateway-api-userinfo", // Google API Gateway
    "x-arr-clientcert",          // Azure App Service
    "x-auth-email",
    "x-auth-request-access-token", // oauth2-proxy
    "x-auth-request-email",
    "x-auth-request-preferred-username",
    "x-auth-request-user",
    "x-auth-token",
    "x-auth-user",
    "x-authenticated-user",
    "x-authenticated-userid", // Kong
    "x-authentik-email",      // authentik
    "x-authentik-jwt",
    "x-authentik-uid",
    "x-authentik-username",
    "x-client-cert",
    "x-client-dn",
    "x-consumer-custom-id", // Kong
    "x-consumer-id",
    "x-consumer-username",
    "x-credential-identifier",
    "x-endpoint-api-userinfo", // Google Cloud Endpoints
    "x-forwarded-access-token",
    "x-forwarded-client-cert", // Envoy, Istio
    "x-forwarded-email",       // oauth2-proxy
    "x-forwarded-preferred-username",
    "x-forwarded-tls-client-cert", // Traefik
    "x-forwarded-tls-client-cert-info",
    "x-forwarded-user",
    "x-goog-api-key",
    "x-goog-authenticated-user-email", // Google Identity-Aware Proxy
    "x-goog-authenticated-user-id",
    "x-goog-iap-jwt-assertion",
    "x-jwt-assertion",
    "x-jwt-payload",
    "x-ms-client-principal", // Azure App Service
    "x-ms-client-principal-id",
    "x-ms-client-principal-name",
    "x-ms-token-aad-access-token",
    "x-ms-token-aad-id-token",
    "x-pomerium-claim-email", // Pomerium
    "x-pomerium-claim-sub",
    "x-pomerium-jwt-assertion",
    "x-rapidapi-key",
    "x-rapidapi-user",
    "x-remote-user",
    "x-session-token",
    "x-shopify-access-token",
    "x-ssl-client-cert", // nginx, as its documentation passes it on
    "x-ssl-client-dn",
    "x-ssl-client-s-dn",
    "x-vault-token",
    "x-vouch-user", // Vouch Proxy
];

/// Headers that may say whose a request is, and often do not: a cookie that analytics set, a name of somebody's own. A
/// request that has one of them, and no scope, is warned about once.
pub const POSSIBLE_CALLERS: [&str; 6] = ["cookie", "x-user", "x-user-email", "x-user-id", "x-userid", "x-username"];

/// Whether a header, by its name in lower case, says whose a request is.
///
/// ```
/// use idempotency::http::names_caller;
/// assert!(names_caller(b"authorization") && names_caller(b"x-forwarded-user") && !names_caller(b"user-agent"));
/// ```
pub fn names_caller(header: &[u8]) -> bool {
    CALLERS.binary_search_by(|name| name.as_bytes().cmp(header)).is_ok()
}

/// The caller by an `Authorization` header, where it is a static API key: a digest of the header, in hexadecimal.
///
/// ```
/// use idempotency::http::authorization_caller;
/// assert_ne!(authorization_caller("Bearer one"), authorization_caller("Bearer two"));
/// ```
pub fn authorization_caller(header: &str) -> String {
    let length = (header.len() as u32).to_be_bytes();
    let value = [b"1s", &length[..], header.as_bytes()].concat(); // a text, in the encoding of Python's values
    hex(&Digest::new("idempotency call 1").part(b"authorization").part(&value).finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_headers_that_name_a_caller_are_in_order() {
        assert!(CALLERS.is_sorted_by(|one, next| one < next));
        assert!(CALLERS.iter().all(|name| names_caller(name.as_bytes()) && *name == name.to_ascii_lowercase()));
    }

    /// Python services of version 0.2 have written it.
    #[test]
    fn the_digest_of_an_authorization_stays() {
        let digest = "9392afcbc725fb175f57ccde66953006c1c5745ffd33aa24350f1ce00eacc61c";
        assert_eq!(authorization_caller("Bearer s\u{e9}cret"), digest);
    }
}
