//! Images that a request names by address: who takes them so, and who brings them for the others.

use std::fmt;

use async_trait::async_trait;

/// What a backend makes of an image's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageAddresses {
    /// It fetches the image itself.
    Taken,
    /// It may fetch some. Where images are fetched here, it is given the image, else the address.
    Doubtful,
    /// It takes images as bytes alone.
    Refused,
}

/// An image that was fetched.
#[derive(Clone, PartialEq, Eq)]
pub struct FetchedImage {
    /// A data URL in base64.
    pub url: String,
}

impl fmt::Debug for FetchedImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FetchedImage({} bytes)", self.url.len())
    }
}

/// Fetches images from servers that anybody may reach, and from no others.
///
/// Contract, for every implementation:
/// - Nothing is connected to but a public address that was looked at right before, at every redirect
///   anew; nothing is sent that says who asks.
/// - What is read, and how long that takes, has a bound.
/// - Dropping the future ends it.
#[async_trait]
pub trait ImageFetcher: Send + Sync + 'static {
    /// # Errors
    /// Why not, in words for the caller.
    async fn fetch(&self, url: &str) -> Result<FetchedImage, FetchFault>;
}

/// Why an image was not fetched. The words tell a caller nothing of what this node can reach beside
/// public servers: a name that is not known and one that leads inside end alike.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FetchFault {
    #[error("it is no address that begins with https://")]
    Malformed,
    #[error("plain http is not fetched here; use https")]
    Plain,
    #[error("the address must not hold a user name or password")]
    Credentials,
    #[error("only the ports 80 and 443 are fetched from")]
    Port,
    #[error("no public server could be reached there")]
    Unreachable,
    #[error("its server sends from one address to another too often")]
    Redirects,
    #[error("its server answered with the status {0}")]
    Status(u16),
    #[error("its server compressed it, unasked")]
    Compressed,
    #[error("it has more than {bytes_max} bytes")]
    TooLarge { bytes_max: usize },
    #[error("what is there is no image of a kind that is taken here")]
    NoImage,
    #[error("its server broke off")]
    Broken,
    #[error("its server took too long")]
    TimedOut,
}
