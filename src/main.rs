//! The `hedge` binary. Everything it does is in `app`.

/// An exchange makes some hundred small allocations; with glibc's allocator they take a sixth of its
/// processor time more.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> std::process::ExitCode {
    app::main()
}
