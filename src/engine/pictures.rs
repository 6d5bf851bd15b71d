//! A request's images, from data URLs to pixels.
//!
//! Callers' bytes are read by the `image` crate, in safe Rust and within bounds, and not by mtmd's own
//! reader: that is C, takes sounds and films too, and starts `ffmpeg` for what it does not know. Every
//! size is looked at in the header before anything is decoded, so that a small file cannot ask for
//! much memory. Nothing is fetched: an address on the network is refused.

use std::fmt;
use std::io::Cursor;

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use domain::{BackendError, ChatRequest, Part};
use hashing::sha256;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};

/// Images of one request. More would fill any context.
pub(crate) const IMAGES_MAX: usize = 16;
/// Bytes of one image's file.
pub(crate) const IMAGE_BYTES_MAX: usize = 16 << 20;
/// Pixels of one image, as a good camera takes them: 75 MB while it is read. Projectors look at a
/// tenth of that at most.
pub(crate) const IMAGE_PIXELS_MAX: u64 = 25_000_000;
/// A side in pixels; longer ones are no pictures.
pub(crate) const IMAGE_SIDE_MAX: u32 = 16_384;
/// How many times as long as the other a side may be: some projectors fill images up to squares.
pub(crate) const IMAGE_ASPECT_MAX: u32 = 200;
/// What a decoder may allot beside its result, for one image of sixteen bits a channel.
const DECODER_BYTES_MAX: u64 = 8 * IMAGE_PIXELS_MAX + (64 << 20);

/// What reading one image takes at most: its pixels of sixteen bits a channel, and those that the
/// projector gets.
pub(crate) const PICTURE_BYTES_MAX: u64 = DECODER_BYTES_MAX + 3 * IMAGE_PIXELS_MAX;

/// What OpenAI's own API takes.
const FORMATS: [ImageFormat; 4] = [
    ImageFormat::Png,
    ImageFormat::Jpeg,
    ImageFormat::WebP,
    ImageFormat::Gif,
];

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A digest of an image's file.
pub(crate) type ImageDigest = [u8; 32];

/// An image as it came, its header looked at.
pub(crate) struct ImageFile {
    /// Where in the request.
    path: String,
    format: ImageFormat,
    bytes: Vec<u8>,
    pub digest: ImageDigest,
}

/// Pixels: `rgb: u8[height, width, 3]`, row-major.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Picture {
    pub width: u32,
    pub height: u32,
    pub rgb: Vec<u8>,
}

impl fmt::Debug for Picture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Picture({} x {})", self.width, self.height)
    }
}

/// The images of `request`, in reading order.
///
/// # Errors
/// The first that is not there as bytes, or is none that can be read; or there are too many.
pub(crate) fn image_files(request: &ChatRequest) -> Result<Vec<ImageFile>, BackendError> {
    let mut files = Vec::new();
    for (at, message) in request.messages.iter().enumerate() {
        for (part_at, part) in message.content.iter().enumerate() {
            let Part::Image(image) = part else {
                continue;
            };
            let path = format!("messages[{at}].content[{part_at}].image_url.url");
            if files.len() == IMAGES_MAX {
                let words = format!("this model takes at most {IMAGES_MAX} images in a request");
                return Err(BackendError::declined(path, words));
            }
            files.push(ImageFile::read(path, &image.url)?);
        }
    }
    Ok(files)
}

impl ImageFile {
    fn read(path: String, url: &str) -> Result<Self, BackendError> {
        let Some(data) = url.strip_prefix("data:") else {
            return Err(BackendError::declined(
                path,
                "this model fetches nothing; send the image itself, as \
                 `data:image/png;base64,…`",
            ));
        };
        let bytes = match bytes_of(data) {
            Ok(bytes) => bytes,
            Err(words) => return Err(BackendError::declined(path, words)),
        };
        let Some(format) = format_of(&bytes) else {
            let words = "these bytes are no PNG, JPEG, WebP or GIF image";
            return Err(BackendError::declined(path, words));
        };
        let file = Self {
            path,
            format,
            digest: sha256(&bytes),
            bytes,
        };
        match file.reader().into_dimensions() {
            Ok((width, height)) => file.check_size(width, height)?,
            Err(_) => return Err(file.unreadable()),
        }
        Ok(file)
    }

    /// Its sides are looked at by [`ImageFile::check_size`], which says what is wrong with them.
    fn reader(&self) -> ImageReader<Cursor<&[u8]>> {
        let mut reader = ImageReader::with_format(Cursor::new(&*self.bytes), self.format);
        let mut limits = Limits::no_limits();
        limits.max_alloc = Some(DECODER_BYTES_MAX);
        reader.limits(limits);
        reader
    }

    fn check_size(&self, width: u32, height: u32) -> Result<(), BackendError> {
        let words = if width == 0 || height == 0 {
            "the image has no pixels".to_owned()
        } else if width > IMAGE_SIDE_MAX || height > IMAGE_SIDE_MAX {
            format!(
                "the image has {width} x {height} pixels; no side may have more than \
                 {IMAGE_SIDE_MAX}"
            )
        } else if u64::from(width) * u64::from(height) > IMAGE_PIXELS_MAX {
            format!(
                "the image has {width} x {height} pixels; at most {IMAGE_PIXELS_MAX} may be in one"
            )
        } else if width / height > IMAGE_ASPECT_MAX || height / width > IMAGE_ASPECT_MAX {
            format!(
                "the image has {width} x {height} pixels; one side may be at most \
                 {IMAGE_ASPECT_MAX} times the other"
            )
        } else {
            return Ok(());
        };
        Err(BackendError::declined(self.path.clone(), words))
    }

    /// Its pixels, upright as its camera says. What lets light through is shown as if it did not.
    ///
    /// # Errors
    /// It is cut off or broken.
    pub(crate) fn picture(&self) -> Result<Picture, BackendError> {
        let decode = || {
            let mut decoder = self.reader().into_decoder()?;
            let orientation = decoder.orientation()?;
            let mut image = DynamicImage::from_decoder(decoder)?;
            image.apply_orientation(orientation);
            Ok(image.into_rgb8())
        };
        let decoded: image::ImageResult<_> = decode();
        let rgb = decoded.map_err(|_| self.unreadable())?;
        Ok(Picture {
            width: rgb.width(),
            height: rgb.height(),
            rgb: rgb.into_raw(),
        })
    }

    /// Said of an image that the projector will not have.
    pub(crate) fn unusable(&self) -> BackendError {
        BackendError::declined(
            self.path.clone(),
            "this model's projector cannot read the image",
        )
    }

    fn unreadable(&self) -> BackendError {
        BackendError::declined(
            self.path.clone(),
            "the image is cut off or broken, or of a kind that is not supported",
        )
    }
}

/// The bytes of a data URL after its scheme (RFC 2397), which must be in base64.
fn bytes_of(data: &str) -> Result<Vec<u8>, String> {
    let Some((kind, text)) = data.split_once(',') else {
        return Err("this is no data URL: it has no comma".to_owned());
    };
    if !kind.ends_with(";base64") {
        return Err("the image's data URL must be in base64: `data:image/png;base64,…`".to_owned());
    }
    if text.len() / 4 * 3 > IMAGE_BYTES_MAX {
        return Err(format!(
            "the image's file is larger than {IMAGE_BYTES_MAX} bytes"
        ));
    }
    let bytes = BASE64
        .decode(text)
        .map_err(|_| "the image's data URL is not valid base64".to_owned())?;
    if bytes.is_empty() {
        return Err("the image is empty".to_owned());
    }
    Ok(bytes)
}

/// By what it begins with; what its address calls it may be wrong.
fn format_of(bytes: &[u8]) -> Option<ImageFormat> {
    let guessed = image::guess_format(bytes).ok()?;
    FORMATS.contains(&guessed).then_some(guessed)
}

#[cfg(test)]
mod tests;
