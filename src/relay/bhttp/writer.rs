//! Writes messages: of indeterminate length as they are made, of known length in one go.

use super::fields::Fields;
use super::line::RequestLine;
use super::{Framing, InvalidMessage};
use crate::varint;

fn string(bytes: &[u8], out: &mut Vec<u8>) {
    varint::write(bytes.len(), out);
    out.extend_from_slice(bytes);
}

fn lines(fields: &Fields, out: &mut Vec<u8>) {
    for (name, value) in fields.iter() {
        string(name.as_bytes(), out);
        string(value, out);
    }
}

fn open_section(fields: &Fields, out: &mut Vec<u8>) {
    lines(fields, out);
    out.push(0);
}

fn known_section(fields: &Fields, out: &mut Vec<u8>) {
    let mut section = Vec::new();
    lines(fields, &mut section);
    string(&section, out);
}

fn line(line: &RequestLine, out: &mut Vec<u8>) {
    for part in line.parts() {
        string(part.as_bytes(), out);
    }
}

/// The beginning of a request of indeterminate length.
pub fn write_request(request: &RequestLine, header: &Fields, out: &mut Vec<u8>) -> ContentWriter {
    out.push(Framing::OpenRequest.id());
    line(request, out);
    open_section(header, out);
    ContentWriter(())
}

/// A response of indeterminate length, before its status.
#[derive(Debug)]
pub struct ResponseWriter(());

impl ResponseWriter {
    pub fn start(out: &mut Vec<u8>) -> Self {
        out.push(Framing::OpenResponse.id());
        Self(())
    }

    /// # Errors
    /// [`InvalidMessage::Status`] outside of 100 to 199.
    pub fn informational(
        &self,
        status: u16,
        header: &Fields,
        out: &mut Vec<u8>,
    ) -> Result<(), InvalidMessage> {
        let (100..200) = status else {
            return Err(InvalidMessage::Status);
        };
        varint::write(status.into(), out);
        open_section(header, out);
        Ok(())
    }

    /// # Errors
    /// [`InvalidMessage::Status`] outside of 200 to 599.
    pub fn response(
        self,
        status: u16,
        header: &Fields,
        out: &mut Vec<u8>,
    ) -> Result<ContentWriter, InvalidMessage> {
        let (200..600) = status else {
            return Err(InvalidMessage::Status);
        };
        varint::write(status.into(), out);
        open_section(header, out);
        Ok(ContentWriter(()))
    }
}

/// The body of a message of indeterminate length.
#[derive(Debug)]
pub struct ContentWriter(());

impl ContentWriter {
    /// Nothing of it is not written: a piece of no bytes would be the end.
    pub fn push(&self, content: &[u8], out: &mut Vec<u8>) {
        if !content.is_empty() {
            string(content, out);
        }
    }

    /// The end of the body. Zeros may follow.
    pub fn finish(self, trailer: &Fields, out: &mut Vec<u8>) {
        write_end(trailer, out);
    }
}

/// The end of a body of indeterminate length, and of its message.
pub(crate) fn write_end(trailer: &Fields, out: &mut Vec<u8>) {
    out.push(0);
    open_section(trailer, out);
}

/// A whole request of known length.
pub fn write_known_request(
    request: &RequestLine,
    header: &Fields,
    content: &[u8],
    trailer: &Fields,
    out: &mut Vec<u8>,
) {
    out.push(Framing::KnownRequest.id());
    line(request, out);
    known_section(header, out);
    string(content, out);
    known_section(trailer, out);
}

/// A whole response of known length.
///
/// # Errors
/// [`InvalidMessage::Status`] outside of 200 to 599.
pub fn write_known_response(
    status: u16,
    header: &Fields,
    content: &[u8],
    trailer: &Fields,
    out: &mut Vec<u8>,
) -> Result<(), InvalidMessage> {
    let (200..600) = status else {
        return Err(InvalidMessage::Status);
    };
    out.push(Framing::KnownResponse.id());
    varint::write(status.into(), out);
    known_section(header, out);
    string(content, out);
    known_section(trailer, out);
    Ok(())
}
