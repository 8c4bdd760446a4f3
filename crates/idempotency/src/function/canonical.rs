//! The canonical form of a value, for fingerprints: equal values have one form, whatever the order of their maps.
//!
//! | tag | value |
//! |---|---|
//! | `n` `t` `f` | nothing (`None`, `()`), true, false |
//! | `i` `u` | integer of any width: 16 bytes, two's complement; `u` beyond `i128` |
//! | `d` | float: IEEE 754, -0.0 as 0.0 |
//! | `s` `b` | text (UTF-8), bytes: length, bytes |
//! | `v` | variant of an enum: its name as text, then what it holds, if anything |
//! | `[` … `]` | sequences: the elements |
//! | `{` … `}` | maps and structs: names and values in turn, in the order of the names' bytes |
//!
//! Numbers are big endian, lengths 8 bytes. `Some` and newtypes are what they hold. What JSON can't tell is an error: it would
//! come back as something else.

use serde::ser::{self, Serialize, Serializer};

use super::error::{MAX_DEPTH, ValueError, ValueErrorKind};

/// Adds the canonical form of a value.
pub(super) fn canonical<T: Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) -> Result<(), ValueError> {
    value.serialize(Canonical { out, depth: 0, in_some: false })
}

struct Canonical<'a> {
    out: &'a mut Vec<u8>,
    depth: u8,
    /// Whether it is what a `Some` holds.
    in_some: bool,
}

impl<'a> Canonical<'a> {
    fn bytes(&mut self, tag: u8, bytes: &[u8]) {
        self.out.push(tag);
        self.out.extend_from_slice(&(bytes.len() as u64).to_be_bytes());
        self.out.extend_from_slice(bytes);
    }

    fn variant(&mut self, name: &str) {
        self.out.push(b'v');
        self.bytes(b's', name.as_bytes());
    }

    fn number(self, tag: u8, bytes: [u8; 16]) -> Result<(), ValueError> {
        self.out.push(tag);
        self.out.extend_from_slice(&bytes);
        Ok(())
    }

    fn items(self) -> Result<Items<'a>, ValueError> {
        let depth = self.deeper()?;
        self.out.push(b'[');
        Ok(Items { out: self.out, depth, index: 0 })
    }

    fn entries(self) -> Result<Entries<'a>, ValueError> {
        let depth = self.deeper()?;
        self.out.push(b'{');
        Ok(Entries { out: self.out, depth, starts: vec![] })
    }

    fn deeper(&self) -> Result<u8, ValueError> {
        match self.depth < MAX_DEPTH {
            true => Ok(self.depth + 1),
            false => Err(ValueError::new(ValueErrorKind::TooDeep)),
        }
    }
}

macro_rules! integers {
    ($($method:ident $type:ty),*) => {
        $(fn $method(self, value: $type) -> Result<(), ValueError> {
            self.number(b'i', i128::from(value).to_be_bytes())
        })*
    };
}

impl<'a> Serializer for Canonical<'a> {
    type Ok = ();
    type Error = ValueError;
    type SerializeSeq = Items<'a>;
    type SerializeTuple = Items<'a>;
    type SerializeTupleStruct = Items<'a>;
    type SerializeTupleVariant = Items<'a>;
    type SerializeMap = Entries<'a>;
    type SerializeStruct = Entries<'a>;
    type SerializeStructVariant = Entries<'a>;

    integers! {
        serialize_i8 i8, serialize_i16 i16, serialize_i32 i32, serialize_i64 i64, serialize_i128 i128,
        serialize_u8 u8, serialize_u16 u16, serialize_u32 u32, serialize_u64 u64
    }

    fn serialize_u128(self, value: u128) -> Result<(), ValueError> {
        match i128::try_from(value) {
            Ok(value) => self.serialize_i128(value),
            Err(_) => self.number(b'u', value.to_be_bytes()),
        }
    }

    fn serialize_bool(self, value: bool) -> Result<(), ValueError> {
        self.out.push(if value { b't' } else { b'f' });
        Ok(())
    }

    fn serialize_f32(self, value: f32) -> Result<(), ValueError> {
        self.serialize_f64(value.into())
    }

    fn serialize_f64(self, value: f64) -> Result<(), ValueError> {
        if !value.is_finite() {
            return Err(ValueError::new(ValueErrorKind::NotFinite));
        }
        self.out.push(b'd');
        self.out.extend_from_slice(&(value + 0.0).to_be_bytes());
        Ok(())
    }

    fn serialize_char(self, value: char) -> Result<(), ValueError> {
        self.serialize_str(value.encode_utf8(&mut [0; 4]))
    }

    fn serialize_str(mut self, value: &str) -> Result<(), ValueError> {
        self.bytes(b's', value.as_bytes());
        Ok(())
    }

    fn serialize_bytes(mut self, value: &[u8]) -> Result<(), ValueError> {
        self.bytes(b'b', value);
        Ok(())
    }

    fn serialize_none(self) -> Result<(), ValueError> {
        if self.in_some {
            return Err(ValueError::new(ValueErrorKind::NestedOption));
        }
        self.out.push(b'n');
        Ok(())
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), ValueError> {
        value.serialize(Self { in_some: true, ..self })
    }

    fn serialize_unit(self) -> Result<(), ValueError> {
        self.serialize_none()
    }

    fn serialize_unit_struct(self, _name: &'static str) -> Result<(), ValueError> {
        self.serialize_none()
    }

    fn serialize_unit_variant(mut self, _: &'static str, _: u32, variant: &'static str) -> Result<(), ValueError> {
        self.variant(variant);
        Ok(())
    }

    fn serialize_newtype_struct<T>(self, _: &'static str, value: &T) -> Result<(), ValueError>
    where
        T: Serialize + ?Sized,
    {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        mut self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<(), ValueError> {
        let depth = self.deeper()?;
        self.variant(variant);
        let inner = Canonical { depth, in_some: false, out: self.out };
        value.serialize(inner).map_err(|error| error.within(variant))
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Items<'a>, ValueError> {
        self.items()
    }

    fn serialize_tuple(self, _: usize) -> Result<Items<'a>, ValueError> {
        self.items()
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Items<'a>, ValueError> {
        self.items()
    }

    fn serialize_tuple_variant(
        mut self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Items<'a>, ValueError> {
        self.variant(variant);
        self.items()
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Entries<'a>, ValueError> {
        self.entries()
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Entries<'a>, ValueError> {
        self.entries()
    }

    fn serialize_struct_variant(
        mut self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Entries<'a>, ValueError> {
        self.variant(variant);
        self.entries()
    }
}

/// The elements of a sequence.
struct Items<'a> {
    out: &'a mut Vec<u8>,
    depth: u8,
    index: usize,
}

impl Items<'_> {
    fn item<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), ValueError> {
        let item = Canonical { out: self.out, depth: self.depth, in_some: false };
        value.serialize(item).map_err(|error| error.within(self.index))?;
        self.index += 1;
        Ok(())
    }

    fn close(self) -> Result<(), ValueError> {
        self.out.push(b']');
        Ok(())
    }
}

macro_rules! sequences {
    ($($trait:ident $method:ident),*) => {
        $(impl ser::$trait for Items<'_> {
            type Ok = ();
            type Error = ValueError;
            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), ValueError> {
                self.item(value)
            }
            fn end(self) -> Result<(), ValueError> {
                self.close()
            }
        })*
    };
}

sequences! {
    SerializeSeq serialize_element, SerializeTuple serialize_element, SerializeTupleStruct serialize_field,
    SerializeTupleVariant serialize_field
}

/// The entries of a map or a struct, put in order at their end.
struct Entries<'a> {
    out: &'a mut Vec<u8>,
    depth: u8,
    /// Where each entry starts.
    starts: Vec<usize>,
}

impl Entries<'_> {
    fn name<T: Serialize + ?Sized>(&mut self, name: &T) -> Result<(), ValueError> {
        self.starts.push(self.out.len());
        name.serialize(Canonical { out: self.out, depth: self.depth, in_some: false })
    }

    fn value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), ValueError> {
        value.serialize(Canonical { out: self.out, depth: self.depth, in_some: false })
    }

    fn field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Result<(), ValueError> {
        self.name(name)?;
        self.value(value).map_err(|error| error.within(name))
    }

    fn close(self) -> Result<(), ValueError> {
        let end = self.out.len();
        let ends = self.starts.iter().skip(1).copied().chain([end]);
        // Each starts with its name, and no name's form starts another's.
        let mut entries: Vec<&[u8]> = self.starts.iter().zip(ends).map(|(start, end)| &self.out[*start..end]).collect();
        if !entries.is_sorted() {
            entries.sort_unstable();
            let sorted = entries.concat();
            self.out.truncate(end - sorted.len());
            self.out.extend(sorted);
        }
        self.out.push(b'}');
        Ok(())
    }
}

macro_rules! structs {
    ($($trait:ident),*) => {
        $(impl ser::$trait for Entries<'_> {
            type Ok = ();
            type Error = ValueError;
            fn serialize_field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Result<(), ValueError> {
                self.field(name, value)
            }
            fn end(self) -> Result<(), ValueError> {
                self.close()
            }
        })*
    };
}

structs! { SerializeStruct, SerializeStructVariant }

impl ser::SerializeMap for Entries<'_> {
    type Ok = ();
    type Error = ValueError;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), ValueError> {
        self.name(key)
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), ValueError> {
        self.value(value)
    }

    fn end(self) -> Result<(), ValueError> {
        self.close()
    }
}
