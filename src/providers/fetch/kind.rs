//! Kinds of image, told by how a file begins and not by what its server calls it.

/// So many bytes tell the kind.
pub(super) const SNIFFED_BYTES: usize = 12;

/// The kinds that models read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageKind {
    Png,
    Jpeg,
    Gif,
    Webp,
}

impl ImageKind {
    pub const ALL: [ImageKind; 4] = [
        ImageKind::Png,
        ImageKind::Jpeg,
        ImageKind::Gif,
        ImageKind::Webp,
    ];

    /// By the file's first [`SNIFFED_BYTES`], as WHATWG's "MIME Sniffing" (section 6.1) tells these kinds.
    pub(super) fn of(bytes: &[u8]) -> Option<Self> {
        if bytes.starts_with(b"\x89PNG\r\n\x1a\n") {
            Some(ImageKind::Png)
        } else if bytes.starts_with(b"\xff\xd8\xff") {
            Some(ImageKind::Jpeg)
        } else if bytes.starts_with(b"GIF87a") || bytes.starts_with(b"GIF89a") {
            Some(ImageKind::Gif)
        } else if bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"WEBP") {
            Some(ImageKind::Webp)
        } else {
            None
        }
    }

    #[must_use]
    pub fn as_media_type(self) -> &'static str {
        match self {
            ImageKind::Png => "image/png",
            ImageKind::Jpeg => "image/jpeg",
            ImageKind::Gif => "image/gif",
            ImageKind::Webp => "image/webp",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_told_by_the_first_bytes() {
        for (bytes, kind) in [
            (
                b"\x89PNG\r\n\x1a\n\0\0\0\r".as_slice(),
                Some(ImageKind::Png),
            ),
            (b"\xff\xd8\xff\xe0\0\x10JFIF\0\x01", Some(ImageKind::Jpeg)),
            (b"GIF87a......", Some(ImageKind::Gif)),
            (b"GIF89a......", Some(ImageKind::Gif)),
            (b"RIFF\x10\0\0\0WEBP", Some(ImageKind::Webp)),
            (b"RIFF\x10\0\0\0WAVE", None),
            (b"<svg xmlns='", None),
            (b"<!doctype ht", None),
            (b"BM..........", None),
            (b"\x89PNG", None),
            (b"", None),
        ] {
            assert_eq!(ImageKind::of(bytes), kind, "{bytes:?}");
        }
    }
}
