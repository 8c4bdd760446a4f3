//! [`Named`]: the operation and the key, of a record's label.

/// Methods that stand before a path.
const METHODS: [&str; 10] = ["CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"];

/// A record's label, taken apart: `POST /pay` and `order-7`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) operation: String,
    /// It may be cut, and of an operation whose name has spaces it is too long: it never stands in the operation.
    pub(super) key: String,
}

impl Named {
    pub(super) fn of(label: &str) -> Self {
        let (first, rest) = label.split_once(' ').unwrap_or((label, ""));
        let path = rest.split_once(' ').filter(|(path, _)| METHODS.contains(&first) && path.starts_with('/'));
        match path {
            Some((path, key)) => Self { operation: format!("{first} {path}"), key: key.into() },
            // A label that was cut in its path has no key.
            None if METHODS.contains(&first) && rest.starts_with('/') => {
                Self { operation: label.into(), key: String::new() }
            }
            None => Self { operation: first.into(), key: rest.into() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_has_nothing_of_a_key() {
        let parts = |label: &str| {
            let Named { operation, key } = Named::of(label);
            [operation, key]
        };
        assert_eq!(parts("POST /pay order 7"), ["POST /pay", "order 7"]);
        assert_eq!(parts("shop.charge order-7"), ["shop.charge", "order-7"]);
        assert_eq!(parts("POST secret"), ["POST", "secret"]);
        assert_eq!(parts("my webhook evt_1"), ["my", "webhook evt_1"]);
        assert_eq!(parts(""), ["", ""]);
    }
}
