//! Tokens of a PTX text, each with its line and column.

use crate::Diag;

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Token {
    /// A name, opcode with its modifiers, directive or register: letters, digits, `_ $ % .` and `::`.
    Word(String),
    /// An integer literal.
    Int(u64),
    /// A float literal's bits and width.
    Float(u64, u32),
    Str(String),
    Punct(char),
    End,
}

#[derive(Debug, Clone)]
pub(crate) struct Spanned {
    pub(crate) token: Token,
    pub(crate) line: u32,
    pub(crate) column: u32,
    /// Byte range in the text.
    pub(crate) start: usize,
    pub(crate) end: usize,
}

/// The tokens, and of `//@ file:line` comments their line and text.
pub(crate) struct Lexed {
    pub(crate) tokens: Vec<Spanned>,
    pub(crate) origins: Vec<(u32, String)>,
}

pub(crate) fn lex(text: &str, file: &str) -> Result<Lexed, Box<Diag>> {
    let bytes = text.as_bytes();
    let mut tokens = Vec::new();
    let mut origins = Vec::new();
    let (mut at, mut line, mut line_start) = (0, 1u32, 0);
    let word_byte = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'$' | b'%' | b'.');
    while at < bytes.len() {
        let b = bytes[at];
        let column = (at - line_start + 1) as u32;
        let start = at;
        let bad = |message: String| Diag::text("PTX-PARSE", file, (line, column), message);
        match b {
            b'\n' => {
                at += 1;
                line += 1;
                line_start = at;
                continue;
            }
            b' ' | b'\t' | b'\r' => {
                at += 1;
                continue;
            }
            b'/' if bytes.get(at + 1) == Some(&b'/') => {
                let end = text[at..].find('\n').map_or(bytes.len(), |n| at + n);
                if let Some(origin) = text[at..end].strip_prefix("//@") {
                    origins.push((line, origin.trim().to_owned()));
                }
                at = end;
                continue;
            }
            b'/' if bytes.get(at + 1) == Some(&b'*') => {
                let Some(n) = text[at + 2..].find("*/") else {
                    return Err(bad("a comment that begins with /* has no end".into()));
                };
                let end = at + 2 + n + 2;
                for (k, _) in text[at..end].match_indices('\n') {
                    line += 1;
                    line_start = at + k + 1;
                }
                at = end;
                continue;
            }
            _ => {}
        }
        let token = if b.is_ascii_digit() {
            while at < bytes.len() && bytes[at].is_ascii_alphanumeric() {
                at += 1;
            }
            number(&text[start..at]).ok_or_else(|| {
                bad(format!("`{}` is not a number: expected 12, 012, 0x1F, 0b101, 0fXXXXXXXX or 0dXXXXXXXXXXXXXXXX", &text[start..at]))
            })?
        } else if word_byte(b) {
            loop {
                if at < bytes.len() && word_byte(bytes[at]) {
                    at += 1;
                } else if text[at..].starts_with("::") {
                    at += 2;
                } else {
                    break;
                }
            }
            Token::Word(text[start..at].to_owned())
        } else if b == b'"' {
            let Some(n) = text[at + 1..].find('"') else {
                return Err(bad("a string has no end".into()));
            };
            at += n + 2;
            Token::Str(text[start + 1..at - 1].to_owned())
        } else if b"@!,;:{}[]()<>|+-=".contains(&b) {
            at += 1;
            Token::Punct(b as char)
        } else {
            let c = text[at..].chars().next().unwrap_or('?');
            return Err(bad(format!("character {c:?} has no meaning in PTX")));
        };
        tokens.push(Spanned { token, line, column, start, end: at });
    }
    let column = (at - line_start + 1) as u32;
    tokens.push(Spanned { token: Token::End, line, column, start: at, end: at });
    Ok(Lexed { tokens, origins })
}

fn number(text: &str) -> Option<Token> {
    let lower = text.to_ascii_lowercase();
    if let Some(digits) = lower.strip_prefix("0f") {
        let bits = u32::from_str_radix(Some(digits).filter(|d| d.len() == 8)?, 16).ok()?;
        return Some(Token::Float(u64::from(bits), 32));
    }
    if let Some(digits) = lower.strip_prefix("0d") {
        return Some(Token::Float(
            u64::from_str_radix(Some(digits).filter(|d| d.len() == 16)?, 16).ok()?,
            64,
        ));
    }
    let digits = lower.strip_suffix('u').unwrap_or(&lower);
    let (digits, radix) = match digits {
        _ if digits.starts_with("0x") => (&digits[2..], 16),
        _ if digits.starts_with("0b") => (&digits[2..], 2),
        _ if digits.len() > 1 && digits.starts_with('0') => (&digits[1..], 8),
        _ => (digits, 10),
    };
    u64::from_str_radix(digits, radix).ok().map(Token::Int)
}
