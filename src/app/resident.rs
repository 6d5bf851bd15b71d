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
            // private, and none of its pages is another than the file's, here or swapped out: what is read
            // there is the file's content before and after.
            unsafe {
                madvise(address, end - start, Advice::LinuxDontNeed)?;
            }
        }
        Ok(())
    }

    /// An area that cannot be written to, and the KiB that are said of it; empty where nothing is.
    struct Area<'a> {
        range: Range<usize>,
        here: &'a str,
        /// Of this process's own, as relocated pages are.
        copied: &'a str,
        swapped: &'a str,
    }

    impl Area<'_> {
        /// Whether nothing is lost with its pages. An emulator that knows nothing of them says that there are
        /// none.
        fn is_as_filed(&self) -> bool {
            !["", "0"].contains(&self.here) && [self.copied, self.swapped] == ["0"; 2]
        }
    }

    /// The areas of `program` in what `/proc/self/smaps` says that cannot be written to, and that hold what is
    /// in the file.
    fn unwritten(maps: &str, program: &Path) -> Vec<Range<usize>> {
        let mut areas = Vec::new();
        let mut area: Option<Area<'_>> = None;
        for line in maps.lines() {
            let mut fields = line.split_ascii_whitespace();
            let (Some(first), Some(second)) = (fields.next(), fields.next()) else {
                continue;
            };
            if let Some(range) = range(first) {
                let is_fixed = matches!(second, "r--p" | "r-xp");
                let path = line.find('/').map(|at| Path::new(&line[at..]));
                areas.extend(area.take());
                area = (is_fixed && path == Some(program)).then_some(Area {
                    range,
                    here: "",
                    copied: "",
                    swapped: "",
                });
            } else if let Some(area) = &mut area {
                match first {
                    "Rss:" => area.here = second,
                    "Anonymous:" => area.copied = second,
                    "Swap:" => area.swapped = second,
                    _ => {}
                }
            }
        }
        areas.extend(area);
        areas.retain(Area::is_as_filed);
        areas.into_iter().map(|area| area.range).collect()
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

        /// One area of a file as the kernel tells of it.
        fn area(head: &str, path: &str, pages: [u32; 3]) -> String {
            let [rss, anonymous, swap] = pages;
            format!(
                "{head} 00001000 fe:00 77   {path}\nSize:  12 kB\nRss:  {rss} kB\n\
                 Anonymous:  {anonymous} kB\nAnonHugePages:  0 kB\nSwap:  {swap} kB\nVmFlags: rd ex mr\n"
            )
        }

        #[test]
        fn only_what_the_program_s_file_still_holds_is_let_go() {
            let program = "/opt/my hedge/bin/hedge";
            let maps = [
                area("5000-6000 r--p", program, [4, 0, 0]),
                area("6000-9000 r-xp", program, [8, 0, 0]),
                // Relocated, and the same swapped out.
                area("9000-a000 r--p", program, [4, 4, 0]),
                area("a000-b000 r--p", program, [4, 0, 4]),
                // An emulator that tells nothing.
                area("b000-c000 r--p", program, [0, 0, 0]),
                area("c000-d000 rw-p", program, [4, 0, 0]),
                area("d000-e000 r--s", "/opt/models/tiny.gguf", [4, 0, 0]),
                area("e000-f000 r-xp", "/lib/libc.so.6", [4, 0, 0]),
                "f000-f100 rw-p 00000000 00:00 0    [heap]\nRss: 4 kB\nAnonymous: 0 kB\nSwap: 0 kB\n".into(),
                "f100-f200 r-xp 00000000 00:00 0\nRss: 4 kB\nAnonymous: 0 kB\nSwap: 0 kB\n".into(),
            ];
            let maps = maps.concat();
            let areas = unwritten(&maps, Path::new(program));
            assert_eq!(areas, [0x5000..0x6000, 0x6000..0x9000]);
            assert!(unwritten(&maps, Path::new("/opt/models/tiny.gguf")).is_empty());
        }

        #[test]
        fn what_is_malformed_names_no_area() {
            for maps in [
                "",
                "\n\n",
                "- r-xp / /a\nRss: 4\nAnonymous: 0 kB\nSwap: 0 kB",
                "9-1 r-xp 0 0 0 /a\nRss: 4\nAnonymous: 0 kB\nSwap: 0 kB",
                "zz-1 r-xp 0 0 0 /a\nRss: 4\nAnonymous: 0 kB\nSwap: 0 kB",
                "1-2 r-xp 0 0 0 /a",
                "1-2 r-xp 0 0 0 /a\nRss: 4\nAnonymous: 0 kB",
                "Rss: 4\nAnonymous: 0 kB\nSwap: 0 kB",
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
