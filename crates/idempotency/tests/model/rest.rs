//! The terminal states. The model says which of them it reaches; `terminal_states.rs` reaches each on real stores.

/// An enum whose variants can be listed.
macro_rules! listed {
    ($(#[$doc:meta])* $name:ident { $($(#[$of:meta])* $variant:ident),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$of])* $variant),* }

        impl $name {
            pub const ALL: &[Self] = &[$(Self::$variant),*];
        }
    };
}
#[allow(unused_imports, reason = "the model lists its events too; the tests on stores have no other list")]
pub(crate) use listed;

listed! {
    /// What stands under the key once nothing more is to come.
    Rest {
        Absent,
        Completed,
        NotKept,
        Unknown,
        /// Lapsed under `rerun`: the next call runs.
        Lapsed,
        /// Lapsed under `refuse`: unknown to whoever asks.
        LapsedRefused,
        /// Completed by an operator.
        Resolved,
    }
}
