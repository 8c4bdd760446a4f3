//! Which slot of a cluster a key belongs to, and which nodes have which slots.

use redis::{FromRedisValue, Value};

use super::options::RedisAddress;

/// How many slots there are.
pub(super) const SLOTS: usize = 16384;

/// The slot of a key: by what stands in its first braces, if something does, else by all of it. The client library's own
/// is not public.
pub(super) fn slot(key: &[u8]) -> u16 {
    let tag = key.iter().position(|byte| *byte == b'{').and_then(|open| {
        let behind = &key[open + 1..];
        let close = behind.iter().position(|byte| *byte == b'}')?;
        (close > 0).then(|| &behind[..close])
    });
    crc16(tag.unwrap_or(key)) % SLOTS as u16
}

/// CRC-16/XMODEM.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| (crc << 8) ^ TABLE[usize::from((crc >> 8) as u8 ^ byte)])
}

const TABLE: [u16; 256] = {
    let (mut table, mut byte) = ([0; 256], 0);
    while byte < 256 {
        let (mut crc, mut bit) = ((byte as u16) << 8, 0);
        while bit < 8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

/// Slots that lie together: the first, the last, and the nodes that have them, the primary first.
pub(super) type Range = (u16, u16, Vec<RedisAddress>);

/// Reads what a node answers to CLUSTER SLOTS. `None` where it is something else, or leaves out every slot.
pub(super) fn ranges(answer: Value, asked: &RedisAddress) -> Option<Vec<Range>> {
    let ranges: Vec<Vec<Value>> = FromRedisValue::from_redis_value(answer).ok()?;
    let read: Vec<Range> = ranges.into_iter().filter_map(|range| read(range, asked)).collect();
    (!read.is_empty()).then_some(read)
}

fn read(range: Vec<Value>, asked: &RedisAddress) -> Option<Range> {
    let mut parts = range.into_iter();
    let (first, last) = (number(parts.next()?)?, number(parts.next()?)?);
    if first > last || usize::from(last) >= SLOTS {
        return None;
    }
    let mut nodes = parts.map(|node| {
        let node: Vec<Value> = FromRedisValue::from_redis_value(node).ok()?;
        let [host, port, ..] = &node[..] else { return None };
        let host: Option<String> = FromRedisValue::from_redis_value(host.clone()).ok()?;
        address(host.as_deref().unwrap_or(""), number(port.clone())?, asked)
    });
    let primary = nodes.next()??;
    Some((first, last, std::iter::once(primary).chain(nodes.flatten()).collect()))
}

fn number(value: Value) -> Option<u16> {
    FromRedisValue::from_redis_value(value).ok()
}

/// A node of whose host nothing is said is reached as the one that names it. "?": nobody knows.
fn address(host: &str, port: u16, asked: &RedisAddress) -> Option<RedisAddress> {
    match (host, asked) {
        ("?", _) => None,
        ("", RedisAddress::Host(host, _)) => Some(RedisAddress::Host(host.clone(), port)),
        ("", _) => None,
        _ => Some(RedisAddress::Host(host.into(), port)),
    }
}

/// Reads the address in a redirection, as `host:port`.
pub(super) fn redirected(to: &str, asked: &RedisAddress) -> Option<RedisAddress> {
    let (host, port) = to.rsplit_once(':')?;
    address(host.trim_start_matches('[').trim_end_matches(']'), port.parse().ok()?, asked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_the_slots_that_redis_gives_them() {
        // As `redis-cli cluster keyslot` says.
        let known: [(&[u8], u16); 7] = [
            (b"123456789", 0x31c3),
            (b"foo", 12182),
            (b"{foo}bar", 12182),
            (b"a{foo}{bar}", 12182),
            (b"foo{}{bar}", 8363),
            (b"", 0),
            (b"{foo", 13308),
        ];
        for (key, expected) in known {
            assert_eq!(slot(key), expected, "{}", String::from_utf8_lossy(key));
        }
    }

    #[test]
    fn a_redirection_without_a_host_leads_to_the_host_that_gave_it() {
        let asked = RedisAddress::Host("10.0.0.1".into(), 7000);
        for (to, expected) in [(":7001", "10.0.0.1:7001"), ("::1:7001", "[::1]:7001"), ("db:1", "db:1")] {
            assert_eq!(redirected(to, &asked).unwrap().to_string(), expected);
        }
        assert!(redirected("?:7001", &asked).is_none() && redirected("db", &asked).is_none());
    }
}
