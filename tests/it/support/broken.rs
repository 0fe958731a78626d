//! Builds with a deliberate fault: a rule of the protocol is left out, and the test that stands guard over it
//! must fail.

use std::{process::Command, sync::OnceLock};

/// Does to this process what the variable `FAILPOINTS` says.
pub fn as_told() {
    static SCENARIO: OnceLock<()> = OnceLock::new();
    SCENARIO.get_or_init(|| std::mem::forget(fail::FailScenario::setup()));
}

/// Runs one of this program's tests without a rule. It must fail, and by its own word: an assertion.
pub fn is_caught_by(rule: &str, test: &str) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env("FAILPOINTS", format!("{rule}=return"))
        .env("RUST_BACKTRACE", "0")
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    let ran = String::from_utf8_lossy(&output.stdout);
    assert!(ran.contains("running 1 test"), "there is no test {test}");
    assert!(
        !output.status.success(),
        "{test} does not notice that the rule `{rule}` is left out"
    );
    assert!(
        told.contains("assertion") || told.contains("never: "),
        "{test} failed for another reason than the rule `{rule}`:\n{told}"
    );
}
