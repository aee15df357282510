//! Instructions and their operands.

use super::{Instruction, Operand, Parser, Result, Statement};
use crate::Diag;
use crate::lex::Token;

impl Parser {
    pub(super) fn instruction(&mut self) -> Result<Statement> {
        let start = self.tokens[self.at].start;
        let mut guard = None;
        if self.eat('@') {
            let negated = self.eat('!');
            guard = Some((self.word("a predicate")?, negated));
        }
        let (line, column) = self.here();
        let opcode = self.word("an instruction")?;
        if opcode.starts_with(['.', '%']) {
            self.at -= 1;
            return self.expected("an instruction");
        }
        let mut operands = Vec::new();
        if !self.is(';') {
            loop {
                operands.push(self.operand()?);
                if !self.eat(',') {
                    break;
                }
            }
        }
        if !self.is(';') {
            return self.expected("`,` or `;`");
        }
        let span = (start, self.tokens[self.at].end);
        self.next();
        Ok(Statement::Instruction(Instruction { guard, opcode, operands, line, column, span }))
    }

    pub(super) fn operand(&mut self) -> Result<Operand> {
        let first = self.simple()?;
        if self.eat('|') {
            return Ok(Operand::Pair(Box::new(first), Box::new(self.simple()?)));
        }
        // `variable + 4` as an immediate address.
        if let Operand::Name(_) = first
            && (self.is('+') || self.is('-'))
        {
            let offset = self.offset()?;
            return Ok(Operand::Address { base: Box::new(first), offset, coords: Vec::new() });
        }
        Ok(first)
    }

    pub(super) fn offset(&mut self) -> Result<i64> {
        let plus = self.eat('+');
        match plus || self.is('-') {
            true => Ok(self.int("an offset")? as i64),
            false => Ok(0),
        }
    }

    pub(super) fn simple(&mut self) -> Result<Operand> {
        self.deeper(Self::simple_within)
    }

    pub(super) fn simple_within(&mut self) -> Result<Operand> {
        match self.peek().clone() {
            Token::Word(word) => {
                self.next();
                Ok(Operand::Name(word))
            }
            Token::Int(_) | Token::Punct('-') => {
                if let (Token::Punct('-'), Token::Float(bits, width)) =
                    (self.peek().clone(), self.tokens[self.at + 1].token.clone())
                {
                    self.next();
                    self.next();
                    return Ok(Operand::Float(bits ^ (1 << (width - 1)), width));
                }
                Ok(Operand::Int(self.int("a number")?))
            }
            Token::Float(bits, width) => {
                self.next();
                Ok(Operand::Float(bits, width))
            }
            Token::Punct('!') => {
                self.next();
                Ok(Operand::Not(Box::new(self.simple()?)))
            }
            Token::Punct('{') => {
                self.next();
                let mut elements = Vec::new();
                while !self.eat('}') {
                    elements.push(self.simple()?);
                    if !self.is('}') {
                        self.need(',')?;
                    }
                }
                Ok(Operand::Vector(elements))
            }
            Token::Punct('[') => {
                self.next();
                let base = Box::new(self.simple()?);
                let offset = self.offset()?;
                let mut coords = Vec::new();
                if self.eat(',') {
                    match self.simple()? {
                        Operand::Vector(elements) => coords = elements,
                        other => coords.push(other),
                    }
                }
                self.need(']')?;
                Ok(Operand::Address { base, offset, coords })
            }
            Token::Punct('(') => Err(Diag::text(
                "PTX-UNSUPPORTED",
                &self.file,
                self.here(),
                "call: device functions are not supported",
            )),
            _ => self.expected("an operand"),
        }
    }
}
