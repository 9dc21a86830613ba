//! Who a verified peer is: its certificate's common name, else its first DNS name or URI.

use rustls::pki_types::CertificateDer;

const SEQUENCE: u8 = 0x30;
const EXTENSIONS: u8 = 0xa3;
const OCTET_STRING: u8 = 0x04;
const OBJECT_ID: u8 = 0x06;
const UTF8_STRING: u8 = 0x0c;
const PRINTABLE_STRING: u8 = 0x13;
const IA5_STRING: u8 = 0x16;
/// `dNSName` of RFC 5280 §4.2.1.6.
const DNS_NAME: u8 = 0x82;
/// `uniformResourceIdentifier` of the same.
const URI: u8 = 0x86;

/// 2.5.4.3
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
/// 2.5.29.17
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];

/// Names of more bytes are not names.
const NAME_MAX: usize = 256;

/// The name in a certificate: the subject's common name, else the first DNS name or URI among the alternative names.
/// It does not verify anything. Names with control characters or of more than 256 bytes do not count.
pub fn peer_name(certificate: &CertificateDer<'_>) -> Option<String> {
    let mut outer = Der(certificate.as_ref());
    let body = Der(Der(outer.expect(SEQUENCE)?).expect(SEQUENCE)?);
    let (mut sequences, mut subject, mut extensions) = (0, None, None);
    // RFC 5280 §4.1: of the sequences in the body, the fourth is the subject (signature, issuer, validity, subject).
    for (tag, content) in body {
        match tag {
            SEQUENCE => {
                sequences += 1;
                if sequences == 4 {
                    subject = Some(content);
                }
            }
            EXTENSIONS => extensions = Some(content),
            _ => {}
        }
    }
    common_name(subject?).or_else(|| alternative_name(extensions?))
}

/// `Name ::= SEQUENCE OF SET OF SEQUENCE { type OBJECT IDENTIFIER, value ANY }`
fn common_name(subject: &[u8]) -> Option<String> {
    Der(subject).flat_map(|(_, set)| Der(set)).find_map(|(_, attribute)| {
        let mut attribute = Der(attribute);
        if attribute.expect(OBJECT_ID)? != COMMON_NAME {
            return None;
        }
        match attribute.next()? {
            (UTF8_STRING | PRINTABLE_STRING | IA5_STRING, text) => printable(text),
            _ => None,
        }
    })
}

/// `Extension ::= SEQUENCE { id OBJECT IDENTIFIER, critical BOOLEAN DEFAULT FALSE, value OCTET STRING }`
fn alternative_name(extensions: &[u8]) -> Option<String> {
    Der(Der(extensions).expect(SEQUENCE)?).find_map(|(_, extension)| {
        let mut extension = Der(extension);
        if extension.expect(OBJECT_ID)? != SUBJECT_ALT_NAME {
            return None;
        }
        let (_, names) = extension.find(|(tag, _)| *tag == OCTET_STRING)?;
        let mut names = Der(Der(names).expect(SEQUENCE)?);
        names.find_map(|(tag, text)| if matches!(tag, DNS_NAME | URI) { printable(text) } else { None })
    })
}

fn printable(text: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(text).ok()?;
    let fits = !text.is_empty() && text.len() <= NAME_MAX && !text.chars().any(char::is_control);
    fits.then(|| text.to_owned())
}

/// A row of DER elements, each read as its tag and content. Ends at the first that is cut or has a long tag.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// The content of the next element, if it has this tag.
    fn expect(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.next().and_then(|(found, content)| (found == tag).then_some(content))
    }
}

impl<'a> Iterator for Der<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, rest) = rest.split_first()?;
        let (length, rest) = if first < 0x80 {
            (usize::from(first), rest)
        } else {
            let octets = usize::from(first & 0x7f);
            if octets == 0 || octets > 4 {
                return None;
            }
            let (digits, rest) = rest.split_at_checked(octets)?;
            (digits.iter().fold(0, |length, &digit| length << 8 | usize::from(digit)), rest)
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, content))
    }
}
