//! What is percent-encoded in a URL.

/// A percent-encoded text.
///
/// # Errors
/// Where it is not UTF-8 when it is decoded.
pub(super) fn decoded(text: &str) -> Result<String, std::string::FromUtf8Error> {
    let (mut bytes, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let Some((byte, tail)) = rest.split_first() {
        let code = tail.get(..2).filter(|_| *byte == b'%').and_then(|code| std::str::from_utf8(code).ok());
        let code = code.and_then(|code| u8::from_str_radix(code, 16).ok());
        bytes.push(code.unwrap_or(*byte));
        rest = if code.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8(bytes)
}
