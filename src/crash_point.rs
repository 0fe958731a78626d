//! Places where a test makes the process die, or leaves a step of the protocol out, to show that the
//! tests notice. Without the cargo feature `failpoints` they are nothing at all.
//!
//! Which point does what stands in the variable `FAILPOINTS`, in the words of the `fail` crate:
//! `FAILPOINTS='after-commit=10*off->return'` ends the process at the eleventh time it gets there.

/// Ends the process, as `kill -9` would, if a test wants it to end here.
#[inline]
pub(crate) fn crash_point(name: &str) {
    if is_hit(name) {
        std::process::abort();
    }
}

/// Whether a test wants the step `name` to be left out.
#[inline]
pub(crate) fn is_left_out(name: &str) -> bool {
    is_hit(name)
}

#[cfg(feature = "failpoints")]
fn is_hit(name: &str) -> bool {
    fail::fail_point!(name, |_| true);
    false
}

#[cfg(not(feature = "failpoints"))]
#[inline]
fn is_hit(_name: &str) -> bool {
    false
}
