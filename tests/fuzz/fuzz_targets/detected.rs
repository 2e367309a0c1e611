#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    terrace_tools::fuzz::run(terrace_tools::fuzz::DETECTED, bytes);
});
