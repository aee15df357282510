//! Registers and variables.

use super::{LARGEST, Parser, Result, Statement, Variable, type_bits};
use crate::Diag;
use crate::lex::Token;

impl Parser {
    pub(super) fn registers(&mut self, line: u32, column: u32) -> Result<Statement> {
        let mut lanes = 1;
        let mut kind = self.word("a register type")?;
        if let Some(n) = kind.strip_prefix(".v").and_then(|n| n.parse::<u32>().ok()) {
            lanes = n;
            kind = self.word("a register type")?;
        }
        let Some(bits) = type_bits(&kind) else {
            self.at -= 1;
            return self.expected("a register type");
        };
        if lanes != 1 || bits == 128 {
            return Err(Diag::text(
                "PTX-UNSUPPORTED",
                &self.file,
                (line, column),
                "vector and 128-bit registers are not supported",
            ));
        }
        let mut names = Vec::new();
        loop {
            let name = self.word("a register's name")?;
            let mut count = 0;
            if self.eat('<') {
                count = self.small("a number of registers")?;
                if count > 1 << 20 {
                    return self.error(format!("{count} registers are more than any kernel has"));
                }
                self.need('>')?;
                if count == 0 {
                    return self.error(format!("{name}<0> declares no register"));
                }
            }
            names.push((name, count));
            if !self.eat(',') {
                break;
            }
        }
        self.need(';')?;
        Ok(Statement::Registers { bits, predicate: bits == 1, names, line, column })
    }

    pub(super) fn variables(&mut self) -> Result<Vec<Variable>> {
        let (mut space, mut align, mut bits, mut external) = (String::new(), 0, 0, false);
        let mut found = Vec::new();
        loop {
            let word = self.word("a variable declaration")?;
            match word.as_str() {
                ".extern" => external = true,
                ".visible" | ".weak" => {}
                ".global" | ".const" | ".shared" | ".local" => space = word,
                ".align" => align = self.alignment()?,
                _ if word.starts_with('.') => match type_bits(&word) {
                    Some(n) if (8..=64).contains(&n) => bits = n,
                    _ => {
                        self.at -= 1;
                        return self.expected("a variable declaration");
                    }
                },
                _ => {
                    if space.is_empty() || bits == 0 {
                        self.at -= 1;
                        return self.expected("a variable's state space and type before its name");
                    }
                    let mut size = Some(bits / 8);
                    while self.eat('[') {
                        if self.eat(']') {
                            size = None;
                        } else {
                            let n = self.small("an array size")?;
                            size = size.and_then(|s| s.checked_mul(n));
                            if size.is_none() {
                                return self.error("the array is larger than 4 GiB");
                            }
                            self.need(']')?;
                        }
                    }
                    if size.is_some_and(|size| size > LARGEST) {
                        return self.error(format!("{word} has more than {LARGEST} bytes"));
                    }
                    let mut initial = Vec::new();
                    if self.eat('=') {
                        self.initial(bits / 8, &mut initial)?;
                        let size_given = size.unwrap_or(initial.len() as u32);
                        if initial.len() > size_given as usize {
                            return self
                                .error(format!("{word} is initialised with more than it holds"));
                        }
                        size = Some(size_given);
                    }
                    let align = if align > 0 { align } else { bits / 8 };
                    found.push(Variable {
                        space: space.clone(),
                        name: word,
                        align,
                        size,
                        external,
                        initial,
                    });
                    if !self.eat(',') {
                        self.need(';')?;
                        return Ok(found);
                    }
                }
            }
        }
    }

    pub(super) fn initial(&mut self, bytes: u32, out: &mut Vec<u8>) -> Result<()> {
        if self.eat('{') {
            loop {
                self.deeper(|p| p.initial(bytes, out))?;
                if !self.eat(',') {
                    return self.need('}');
                }
            }
        }
        let value = match *self.peek() {
            Token::Float(value, _) => {
                self.next();
                value
            }
            _ => self.int("a number")?,
        };
        out.extend_from_slice(&value.to_le_bytes()[..bytes as usize]);
        Ok(())
    }
}
