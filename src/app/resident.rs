//! What only the start needed does not stay in memory.
//!
//! A start goes through most of the program once: it reads the configuration, compiles patterns, sets up
//! TLS. What it went through stays mapped, 64 KiB at a time, though serving needs a fourth of it.

#[cfg(target_os = "linux")]
pub use linux::forget_start;

#[cfg(not(target_os = "linux"))]
pub fn forget_start() {}

#[cfg(target_os = "linux")]
mod linux {
    use std::ffi::c_void;
    use std::ops::Range;
    use std::path::Path;
    use std::{fs, io, ptr};

    use rustix::mm::{Advice, madvise};
    use tracing::debug;

    /// Lets go of the program's own pages, but for those that were written to. Each comes back from the
    /// page cache, or its file, when it is used.
    pub fn forget_start() {
        if let Err(error) = forget() {
            debug!(%error, "pages of the start are kept");
        }
    }

    fn forget() -> io::Result<()> {
        let program = fs::read_link("/proc/self/exe")?;
        let maps = fs::read_to_string("/proc/self/smaps")?;
        for Range { start, end } in unwritten(&maps, &program) {
            let address = ptr::without_provenance_mut::<c_void>(start);
            #[expect(unsafe_code, reason = "no call that is safe unmaps pages")]
            // SAFETY: the area is of the program's own file, which is never unmapped while it runs, and
            // private, and none of its pages was written to: what is read there is the file's content
            // before and after.
            unsafe {
                madvise(address, end - start, Advice::LinuxDontNeed)?;
            }
        }
        Ok(())
    }

    /// The areas of `program` in what `/proc/self/smaps` says that cannot be written to and of which no
    /// page is a copy of this process's own, as relocated ones are.
    fn unwritten(maps: &str, program: &Path) -> Vec<Range<usize>> {
        let mut areas = Vec::new();
        let mut area = None;
        for line in maps.lines() {
            let mut fields = line.split_ascii_whitespace();
            let (Some(first), Some(second)) = (fields.next(), fields.next()) else {
                continue;
            };
            if first == "Anonymous:" {
                areas.extend(area.take().filter(|_| second == "0"));
            } else if let Some(range) = range(first) {
                let is_fixed = matches!(second, "r--p" | "r-xp");
                let path = line.find('/').map(|at| Path::new(&line[at..]));
                area = (is_fixed && path == Some(program)).then_some(range);
            }
        }
        areas
    }

    fn range(text: &str) -> Option<Range<usize>> {
        let (start, end) = text.split_once('-')?;
        let hexadecimal = |text| usize::from_str_radix(text, 16).ok();
        let range = hexadecimal(start)?..hexadecimal(end)?;
        (!range.is_empty()).then_some(range)
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        const MAPS: &str = "\
5000-6000 r--p 00000000 fe:00 77   /opt/my hedge/bin/hedge
Rss:                   4 kB
Anonymous:             0 kB
6000-9000 r-xp 00001000 fe:00 77   /opt/my hedge/bin/hedge
Rss:                   8 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me
9000-a000 r--p 00004000 fe:00 77   /opt/my hedge/bin/hedge
Anonymous:             4 kB
a000-b000 rw-p 00005000 fe:00 77   /opt/my hedge/bin/hedge
Anonymous:             0 kB
b000-c000 r--s 00000000 fe:00 78   /opt/models/tiny.gguf
Anonymous:             0 kB
d000-e000 rw-p 00000000 00:00 0    [heap]
Anonymous:             0 kB
e000-f000 r-xp 00000000 00:00 0
Anonymous:             0 kB
f000-f800 r-xp 00000000 fe:00 79   /lib/libc.so.6
Anonymous:             0 kB
";

        #[test]
        fn only_what_the_program_s_file_still_holds_is_let_go() {
            let areas = unwritten(MAPS, Path::new("/opt/my hedge/bin/hedge"));
            assert_eq!(areas, [0x5000..0x6000, 0x6000..0x9000]);
            assert!(unwritten(MAPS, Path::new("/opt/models/tiny.gguf")).is_empty());
        }

        #[test]
        fn what_is_malformed_names_no_area() {
            for maps in [
                "",
                "\n\n",
                "- r-xp / /a\nAnonymous: 0 kB",
                "9-1 r-xp 0 0 0 /a\nAnonymous: 0 kB",
                "zz-1 r-xp 0 0 0 /a\nAnonymous: 0 kB",
                "1-2 r-xp 0 0 0 /a",
            ] {
                assert!(unwritten(maps, Path::new("/a")).is_empty(), "{maps}");
            }
        }

        #[test]
        fn a_program_goes_on_without_its_start() {
            let maps = fs::read_to_string("/proc/self/smaps").unwrap();
            let program = fs::read_link("/proc/self/exe").unwrap();
            assert!(!unwritten(&maps, &program).is_empty());
            forget().unwrap();
        }
    }
}
