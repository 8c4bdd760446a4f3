//! The one form of a JSON body: RFC 8785, the JSON Canonicalization Scheme.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::request::ContentType;

/// The canonical form (RFC 8785) of a JSON body: without white space, names in order, numbers as a double is written.
/// `None` where the body counts byte for byte:
///
/// - it is larger than 256 KiB: the form of a million small objects takes seconds, which a client would choose;
/// - the content type is not JSON (`application/json`, or ends with `+json`) or has a charset other than UTF-8;
/// - the body is not I-JSON (RFC 7493), to which the form is limited: it is malformed, has a name twice in one object, a
///   lone surrogate, or an integer beyond 2^53 - 1 that is written without a fraction and an exponent.
///
/// Other numbers are taken for doubles, as RFC 8785 (section 3.2.2.3) has it: `0.10000000000000001` is `0.1`.
///
/// ```
/// use idempotency::http::canonical_json;
/// let form = |body: &str| canonical_json(b"application/json", body.as_bytes());
/// assert_eq!(form(r#"{"b": [1.50, 10], "a": "\u20ac"}"#).unwrap(), r#"{"a":"€","b":[1.5,10]}"#.as_bytes());
/// assert_eq!(form(r#"{"amount": 1, "amount": 2}"#), None);
/// assert_eq!(form("9007199254740993"), None);
/// assert_eq!(canonical_json(b"text/plain", b"[1, 2]"), None);
/// ```
pub fn canonical_json(content_type: &[u8], body: &[u8]) -> Option<Vec<u8>> {
    if body.len() > MOST {
        return None;
    }
    let content_type = ContentType::read(content_type)?;
    // `charset=utf-8` is left out of it.
    if !content_type.is_json || content_type.text.windows(10).any(|part| part == b"; charset=") {
        return None;
    }
    let IJson(value) = serde_json::from_slice(body).ok()?;
    if has_large_integer(body) { None } else { serde_json_canonicalizer::to_vec(&value).ok() }
}

/// The most bytes of a body that has a canonical form.
const MOST: usize = 1 << 18;

/// Whether an integer of a JSON text is beyond 2^53 - 1. The text is well-formed.
fn has_large_integer(text: &[u8]) -> bool {
    let (mut in_string, mut is_escaped) = (false, false);
    let outside_strings = text.split(|byte| {
        let ends = !in_string && b",:[]{} \t\r\n\"".contains(byte);
        in_string ^= *byte == b'"' && !is_escaped;
        is_escaped = in_string && *byte == b'\\' && !is_escaped;
        ends
    });
    let is_integer = |token: &&[u8]| !token.is_empty() && token.iter().all(|byte| matches!(byte, b'-' | b'0'..=b'9'));
    let is_small = |token: &[u8]| {
        let text = std::str::from_utf8(token).unwrap_or_default();
        text.parse::<i64>().is_ok_and(|number| number.unsigned_abs() < 1 << 53)
    };
    outside_strings.filter(is_integer).any(|token| !is_small(token))
}

/// A JSON value without what RFC 7493 excludes, large integers aside.
struct IJson(Value);

impl<'de> Deserialize<'de> for IJson {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Strict)
    }
}

struct Strict;

impl<'de> Visitor<'de> for Strict {
    type Value = IJson;

    fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str("I-JSON")
    }

    fn visit_unit<E>(self) -> Result<IJson, E> {
        Ok(IJson(Value::Null))
    }

    fn visit_bool<E>(self, value: bool) -> Result<IJson, E> {
        Ok(IJson(Value::Bool(value)))
    }

    fn visit_u64<E>(self, value: u64) -> Result<IJson, E> {
        Ok(IJson(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<IJson, E> {
        Ok(IJson(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<IJson, E> {
        Number::from_f64(value).map(|number| IJson(number.into())).ok_or_else(|| E::custom("not finite"))
    }

    fn visit_str<E>(self, value: &str) -> Result<IJson, E> {
        Ok(IJson(value.into()))
    }

    fn visit_string<E>(self, value: String) -> Result<IJson, E> {
        Ok(IJson(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<IJson, A::Error> {
        let mut array = vec![];
        while let Some(IJson(item)) = items.next_element()? {
            array.push(item);
        }
        Ok(IJson(array.into()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<IJson, A::Error> {
        let mut object = Map::new();
        while let Some((name, IJson(value))) = members.next_entry::<String, IJson>()? {
            if object.insert(name, value).is_some() {
                return Err(A::Error::custom("a name twice"));
            }
        }
        Ok(IJson(object.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(body: &[u8]) -> Option<String> {
        canonical_json(b"Application/Problem+JSON; charset=utf-8", body).map(|form| String::from_utf8(form).unwrap())
    }

    /// <https://github.com/cyberphone/json-canonicalization>, `testdata`.
    #[test]
    fn the_official_vectors() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/json_canonicalization");
        let mut seen = 0;
        for input in std::fs::read_dir(format!("{folder}/input")).unwrap() {
            let input = input.unwrap().path();
            let name = input.file_name().unwrap().to_str().unwrap();
            let expected = std::fs::read_to_string(format!("{folder}/output/{name}")).unwrap();
            assert_eq!(form(&std::fs::read(&input).unwrap()), Some(expected), "{name}");
            seen += 1;
        }
        assert_eq!(seen, 6);
    }

    /// RFC 8785, appendix B: the bits of a double, and how it is written.
    #[test]
    fn the_rfc_s_samples_of_numbers() {
        let samples = [
            (0x0000000000000000, "0"),
            (0x8000000000000000, "0"),
            (0x0000000000000001, "5e-324"),
            (0x8000000000000001, "-5e-324"),
            (0x7fefffffffffffff, "1.7976931348623157e+308"),
            (0xffefffffffffffff, "-1.7976931348623157e+308"),
            (0x4340000000000000, "9007199254740992"),
            (0xc340000000000000, "-9007199254740992"),
            (0x4430000000000000, "295147905179352830000"),
            (0x44b52d02c7e14af5, "9.999999999999997e+22"),
            (0x44b52d02c7e14af6, "1e+23"),
            (0x44b52d02c7e14af7, "1.0000000000000001e+23"),
            (0x444b1ae4d6e2ef4e, "999999999999999700000"),
            (0x444b1ae4d6e2ef4f, "999999999999999900000"),
            (0x444b1ae4d6e2ef50, "1e+21"),
            (0x3eb0c6f7a0b5ed8c, "9.999999999999997e-7"),
            (0x3eb0c6f7a0b5ed8d, "0.000001"),
            (0x41b3de4355555553, "333333333.3333332"),
            (0x41b3de4355555554, "333333333.33333325"),
            (0x41b3de4355555555, "333333333.3333333"),
            (0x41b3de4355555556, "333333333.3333334"),
            (0x41b3de4355555557, "333333333.33333343"),
            (0xbecbf647612f3696, "-0.0000033333333333333333"),
            (0x43143ff3c1cb0959, "1424953923781206.2"),
        ];
        for (bits, expected) in samples {
            let sent = format!("{:e}", f64::from_bits(bits));
            assert_eq!(form(sent.as_bytes()).as_deref(), Some(expected), "{sent}");
        }
    }

    #[test]
    fn equal_values_have_one_form() {
        let one = form(br#"{"amount":10,"to":{"b":null,"a":"\u00e9"}}"#);
        let others: [&[u8]; 3] = [
            " {\n\"to\" : {\"a\":\"é\", \"b\":null}, \"amount\": 1e1 }".as_bytes(),
            br#"{"amount":10.0,"to":{"b":null,"a":"\u00E9"}}"#,
            br#"{"\u0061mount":10,"to":{"b":null,"a":"\u00e9"}}"#,
        ];
        assert!(one.is_some());
        for other in others {
            assert_eq!(form(other), one);
        }
        assert_ne!(form(br#"{"amount":10}"#), form(br#"{"amount":"10"}"#));
        assert_ne!(form("\"é\"".as_bytes()), form("\"e\u{301}\"".as_bytes()));
    }

    #[test]
    fn what_readers_may_take_for_different_values_counts_byte_for_byte() {
        let deep = "[".repeat(200) + &"]".repeat(200);
        let bodies: [&[u8]; 16] = [
            b"",
            b"{",
            b"{} {}",
            b"{\"a\":1,\"a\":1}",
            b"{\"a\":{\"b\":1,\"\\u0062\":2}}",
            b"[9007199254740992]",
            b"-9007199254740992",
            b"123456789012345678901234567890",
            b"1e400",
            b"NaN",
            b"01",
            b"\"\\ud800\"",
            b"\"\xff\"",
            b"\xef\xbb\xbf{}",
            b"// note\n{}",
            deep.as_bytes(),
        ];
        for body in bodies {
            assert_eq!(form(body), None, "{}", String::from_utf8_lossy(body));
        }
        let spaces = |count: usize| form(format!("[{}]", " ".repeat(count)).as_bytes());
        assert_eq!((spaces(MOST - 2).as_deref(), spaces(MOST - 1)), (Some("[]"), None));
        let plain: [&[u8]; 3] =
            [b"9007199254740991", br#"{"\\":123456789012345678901}"#, br#"["\"9007199254740993\\",1E30]"#];
        assert_eq!(plain.map(|body| form(body).is_some()), [true, false, true]);
        for content_type in
            ["", "text/json", "application/json; charset=latin-1", "application/x-ndjson", "application/json; charset"]
        {
            assert_eq!(canonical_json(content_type.as_bytes(), b"{}"), None, "{content_type}");
        }
    }
}
