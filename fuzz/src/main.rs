//! The fuzzer: `make fuzz`. The environment's `TARGET` names one of [`fuzz::TARGETS`].

#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    static TARGET: std::sync::LazyLock<fuzz::Target> = std::sync::LazyLock::new(|| {
        let name = std::env::var("TARGET").unwrap_or_default();
        let found = fuzz::TARGETS.iter().find(|(target, _)| *target == name);
        found.unwrap_or_else(|| panic!("TARGET is {name:?}, which is none of fuzz::TARGETS")).1
    });
    TARGET(data);
});

#[cfg(not(fuzzing))]
fn main() {
    eprintln!("this build has no fuzzer in it: run `make fuzz`");
    std::process::exit(2);
}
