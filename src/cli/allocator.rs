//! The system's allocator, told what this program does.

/// Keeps all memory in one arena where glibc would give threads their own: what one thread takes and another gives back, as
/// clusters on their way from a file are, would stay with the first, and a budget of bytes would be exceeded by what is free.
///
/// To be called before threads start. Costs nothing that was seen: operations allocate little.
pub(super) fn share_one_arena() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: mallopt takes two numbers and may be called at any time; a refusal changes nothing.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}
