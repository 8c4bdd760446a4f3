//! The record's wire form.

use idempotency::{AfterCrash, Fingerprint, Record, RecordError, State, Token};
use proptest::collection::vec;
use proptest::prelude::*;

/// Where the label's length ends, as the documentation of [`Record::encode`] counts.
const HEAD: usize = 4 + 1 + 1 + 16 + 16 + 8 + 8 + 32 + 2;

fn record() -> impl Strategy<Value = Record> {
    let state = prop_oneof![Just(State::InFlight), Just(State::Completed), Just(State::NotKept), Just(State::Unknown)];
    let policy = prop_oneof![Just(AfterCrash::Rerun), Just(AfterCrash::Refuse)];
    // A fence is a clock in µs: 16 digits until the year 2286.
    let numbers = (0..10_000_000_000_000_000u64, any::<u64>(), any::<u64>());
    (state, policy, any::<[u8; 16]>(), numbers, any::<[u8; 32]>(), "\\PC{0,80}", vec(any::<u8>(), 0..300)).prop_map(
        |(state, after_crash, token, (fence, lease, ttl), fingerprint, label, result)| Record {
            state,
            after_crash,
            token: Token(token),
            fence,
            lease,
            ttl,
            fingerprint: Fingerprint(fingerprint),
            label: label.into(),
            result: result.into(),
        },
    )
}

fn example() -> Record {
    Record {
        state: State::InFlight,
        after_crash: AfterCrash::Refuse,
        token: Token(*b"0123456789abcdef"),
        fence: 1_700_000_000_000_000,
        lease: 30_000_000,
        ttl: 86_400_000_000,
        fingerprint: Fingerprint([0xab; 32]),
        label: "POST /charge k".into(),
        result: [].into(),
    }
}

proptest! {
    #[test]
    fn a_record_reads_as_it_was_written(record in record()) {
        let bytes = record.encode();
        let read = Record::decode(&bytes).unwrap();
        let cut = record.label.floor_char_boundary(200);
        prop_assert_eq!(&read, &Record { label: record.label[..cut].into(), ..record.clone() });
        // Stores compare wire forms to see whether a record is still the one they saw.
        prop_assert_eq!(read.encode(), bytes);
    }

    #[test]
    fn every_cut_through_the_fields_is_an_error(record in record()) {
        let bytes = record.encode();
        let fields = bytes.len() - record.result.len();
        for length in 0..fields {
            let read = Record::decode(&bytes[..length]);
            let error = if length < 4 { RecordError::Foreign } else { RecordError::Damaged };
            prop_assert_eq!(read, Err(error), "cut to {} bytes", length);
        }
        // The result has no length of its own: it is what is left.
        for length in fields..bytes.len() {
            prop_assert_eq!(&*Record::decode(&bytes[..length]).unwrap().result, &bytes[fields..length]);
        }
    }

    #[test]
    fn no_bytes_panic(bytes in vec(any::<u8>(), 0..400)) {
        let foreign = !bytes.starts_with(b"idm");
        let read = Record::decode(&bytes);
        prop_assert!(!foreign || read == Err(RecordError::Foreign));
    }

    #[test]
    fn a_changed_byte_never_panics_and_never_reads_as_before(
        record in record(), at in any::<prop::sample::Index>(), with in 1u8..
    ) {
        let mut bytes = record.encode();
        let at = at.index(bytes.len());
        bytes[at] ^= with;
        if let Ok(read) = Record::decode(&bytes) {
            let same_fence = (22..38).contains(&at) && read.fence == record.fence; // "+0…" is read as "00…"
            prop_assert!(same_fence || read != Record::decode(&record.encode()).unwrap(), "byte {} is not read", at);
        }
    }

    #[test]
    fn what_starts_as_ours_never_panics(tail in vec(any::<u8>(), 0..400)) {
        let bytes = [b"idm1Fr", &tail[..]].concat();
        match Record::decode(&bytes) {
            Ok(_) => prop_assert!(bytes.len() >= HEAD),
            Err(error) => prop_assert_eq!(error, RecordError::Damaged),
        }
    }
}

#[test]
fn an_in_flight_record_cut_anywhere_is_an_error() {
    let bytes = example().encode();
    assert!((0..bytes.len()).all(|length| Record::decode(&bytes[..length]).is_err()));
    assert_eq!(Record::decode(&bytes), Ok(example()));
}

#[test]
fn a_fence_is_sixteen_digits_and_nothing_else() {
    for fence in [b"+000000000000017", b" 00000000000017 ", b"-000000000000017"] {
        let mut bytes = example().encode();
        bytes[22..38].copy_from_slice(fence);
        assert_eq!(Record::decode(&bytes), Err(RecordError::Damaged), "{}", String::from_utf8_lossy(fence));
    }
}

#[test]
fn a_newer_version_is_told_from_something_foreign() {
    let mut bytes = example().encode();
    for version in '2'..='9' {
        bytes[3] = version as u8;
        assert_eq!(Record::decode(&bytes), Err(RecordError::Newer(version)));
        assert_eq!(Record::decode(&bytes[..4]), Err(RecordError::Newer(version)), "whatever follows it");
        assert!(RecordError::Newer(version).to_string().contains(&format!("version {version}")));
    }
    for foreign in [&b""[..], b"i", b"idm", b"idm0", b"idm:", b"idm1"[..3].as_ref(), b"IDM1", b"hello", b"\0\0\0\0"] {
        assert_eq!(Record::decode(foreign), Err(RecordError::Foreign), "{foreign:?}");
    }
}

#[test]
fn a_label_is_cut_between_characters_at_200_bytes() {
    for (character, kept) in [("a", 200), ("é", 200), ("€", 198), ("😀", 200)] {
        for padding in 0..4 {
            let label = "x".repeat(padding) + &character.repeat(200);
            let read = Record::decode(&Record { label: label.as_str().into(), ..example() }.encode()).unwrap();
            assert!(label.starts_with(&*read.label));
            assert!(read.label.len() <= 200 && read.label.len() > 200 - character.len(), "{}", read.label.len());
            assert!(padding > 0 || read.label.len() == kept);
            assert_eq!(Record { label: example().label, ..read }, example(), "the other fields are whole");
        }
    }
}

// Pinned: records outlive processes, and scripts and other languages count these bytes.
#[test]
fn the_wire_form_does_not_change() {
    let record = Record { state: State::Completed, result: b"charged"[..].into(), ..example() };
    let expected = [
        &b"idm1Cx0123456789abcdef1700000000000000"[..],
        &30_000_000u64.to_be_bytes(),
        &86_400_000_000u64.to_be_bytes(),
        &[0xab; 32],
        &[0, 14],
        b"POST /charge k",
        b"charged",
    ];
    assert_eq!(record.encode(), expected.concat());
}
