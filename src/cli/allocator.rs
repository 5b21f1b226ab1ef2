//! The system's allocator, told what this program does.

/// Bytes from which memory is taken from the system and given back to it at once.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const LARGE: libc::c_int = 4 << 20;

/// Makes memory that is given back free for others, where glibc would keep it: in the arena of the thread that took it, though
/// another gives it back, as with clusters on their way from a file; or in the heap, for a next request as large. A budget of
/// bytes would be exceeded by what is free.
///
/// To be called before threads start.
pub(super) fn give_back_early() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: mallopt takes two numbers and may be called at any time; a refusal changes nothing.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
    }
}
