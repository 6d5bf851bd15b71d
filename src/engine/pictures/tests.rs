use domain::{Image, Message, Role};

use super::*;
use crate::fake::request;

/// A PNG or so of one colour a row.
pub(crate) fn encoded(width: u32, height: u32, format: ImageFormat) -> Vec<u8> {
    let image = image::RgbImage::from_fn(width, height, |x, y| {
        image::Rgb([(x % 256) as u8, (y % 256) as u8, 7])
    });
    let mut bytes = Vec::new();
    let mut cursor = Cursor::new(&mut bytes);
    image.write_to(&mut cursor, format).unwrap();
    bytes
}

fn url(bytes: &[u8]) -> String {
    format!("data:image/png;base64,{}", BASE64.encode(bytes))
}

fn with_urls(urls: &[String]) -> ChatRequest {
    request("look", |request| {
        let mut message = Message::new(Role::User, "and");
        message.content.extend(urls.iter().map(|url| {
            Part::Image(Image {
                url: url.clone(),
                detail: None,
            })
        }));
        request.messages.push(message);
    })
}

fn fault(urls: &[String]) -> (String, String) {
    let read = image_files(&with_urls(urls));
    let read = read.and_then(|files| files.iter().map(ImageFile::picture).collect());
    let Err(error) = read.map(|_: Vec<Picture>| ()) else {
        panic!("was read");
    };
    let BackendError::Declined { reason } = error else {
        panic!("{error:?}");
    };
    (reason.param.unwrap_or_default(), reason.message)
}

#[test]
fn every_format_is_read_to_its_pixels() {
    for format in FORMATS {
        let bytes = encoded(5, 3, format);
        let files = image_files(&with_urls(&[url(&bytes)])).unwrap();
        let picture = files[0].picture().unwrap();
        assert_eq!((picture.width, picture.height), (5, 3), "{format:?}");
        assert_eq!(picture.rgb.len(), 45, "{format:?}");
        if format == ImageFormat::Png {
            assert_eq!(&picture.rgb[..6], &[0, 0, 7, 1, 0, 7]);
        }
    }
}

#[test]
fn what_is_wrong_with_an_image_is_said_with_its_place() {
    let png = encoded(4, 4, ImageFormat::Png);
    let cases = [
        ("https://a.example/x.png".to_owned(), "fetches nothing"),
        ("data:image/png".to_owned(), "no comma"),
        ("data:image/png,abc".to_owned(), "base64"),
        ("data:image/png;base64,@@@@".to_owned(), "not valid base64"),
        ("data:image/png;base64,".to_owned(), "empty"),
        (url(b"hello, this is text"), "no PNG"),
        (url(b"BM6\0\0\0\0\0\0\x006\0\0\0("), "no PNG"),
        (url(b"RIFF\x24\0\0\0WAVEfmt "), "no PNG"),
        (url(&png[..png.len() / 2]), "cut off"),
        (url(&png[..12]), "cut off"),
    ];
    for (wrong, words) in cases {
        let (path, said) = fault(&[url(&png), wrong.clone()]);
        assert_eq!(path, "messages[1].content[2].image_url.url", "{wrong}");
        assert!(said.contains(words), "{wrong}: {said}");
    }
}

/// A header may claim what would take gigabytes to decode.
#[test]
fn a_size_is_refused_by_the_header_alone() {
    let claims = |width: u32, height: u32| {
        let mut png = encoded(1, 1, ImageFormat::Png);
        png[16..20].copy_from_slice(&width.to_be_bytes());
        png[20..24].copy_from_slice(&height.to_be_bytes());
        let crc = crc32(&png[12..29]);
        png[29..33].copy_from_slice(&crc.to_be_bytes());
        url(&png)
    };
    for (width, height, words) in [
        (10_000, 10_000, "pixels; at most"),
        (16_385, 1, "no side"),
        (0, 5, ""),
        (u32::MAX >> 1, u32::MAX >> 1, ""),
    ] {
        let (_, said) = fault(&[claims(width, height)]);
        assert!(said.contains(words), "{width} x {height}: {said}");
    }
    let (path, said) = fault(&vec![claims(1, 1); IMAGES_MAX + 1]);
    assert!(said.contains("at most 16 images"), "{said}");
    assert_eq!(path, "messages[1].content[17].image_url.url");
}

fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg());
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), step)
    })
}
