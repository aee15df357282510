//! The syntax tree of a PTX module. No recovery: the first error wins.

mod declarations;
mod operands;

use crate::Diag;
use crate::lex::{Lexed, Spanned, Token, lex};

type Result<T> = std::result::Result<T, Box<Diag>>;

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Operand {
    /// A register, special register, variable or label.
    Name(String),
    Int(u64),
    Float(u64, u32),
    /// `{a, b}`.
    Vector(Vec<Operand>),
    /// `[base + offset]`, `[map, {x, y}]`.
    Address {
        base: Box<Operand>,
        offset: i64,
        coords: Vec<Operand>,
    },
    /// `d|p`.
    Pair(Box<Operand>, Box<Operand>),
    /// `!p`.
    Not(Box<Operand>),
}

#[derive(Debug, Clone)]
pub(crate) struct Instruction {
    pub(crate) guard: Option<(String, bool)>,
    pub(crate) opcode: String,
    pub(crate) operands: Vec<Operand>,
    pub(crate) line: u32,
    pub(crate) column: u32,
    /// Byte range in the text.
    pub(crate) span: (usize, usize),
}

#[derive(Debug, Clone)]
pub(crate) enum Statement {
    Instruction(Instruction),
    Label(String, u32, u32),
    Variable(Variable),
    /// Names of one `.reg` with their type; `%r<4>` is expanded.
    Registers {
        bits: u32,
        predicate: bool,
        names: Vec<(String, u32)>,
        line: u32,
        column: u32,
    },
    BranchTargets(String, Vec<String>),
    Block(Vec<Statement>),
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Variable {
    /// `.global`, `.const`, `.shared`, `.local`.
    pub(crate) space: String,
    pub(crate) name: String,
    pub(crate) align: u32,
    /// Bytes; none for `x[]`.
    pub(crate) size: Option<u32>,
    pub(crate) external: bool,
    pub(crate) initial: Vec<u8>,
}

#[derive(Debug, Clone)]
pub(crate) struct Parameter {
    pub(crate) name: String,
    pub(crate) size: u32,
    pub(crate) align: u32,
}

#[derive(Debug, Clone)]
pub(crate) struct Kernel {
    pub(crate) name: String,
    pub(crate) params: Vec<Parameter>,
    /// `.reqntid 128` as ("reqntid", [128]).
    pub(crate) directives: Vec<(String, Vec<u32>)>,
    pub(crate) body: Vec<Statement>,
    pub(crate) line: u32,
    pub(crate) column: u32,
}

#[derive(Debug, Clone)]
pub(crate) struct Tree {
    pub(crate) version: (u32, u32),
    pub(crate) target: String,
    pub(crate) variables: Vec<Variable>,
    pub(crate) kernels: Vec<Kernel>,
    pub(crate) origins: Vec<(u32, String)>,
}

pub(crate) fn parse(text: &str, file: &str) -> Result<Tree> {
    let Lexed { tokens, origins } = lex(text, file)?;
    let mut p = Parser { tokens, at: 0, depth: 0, file: file.to_owned() };
    let mut tree = p.module()?;
    tree.origins.extend(origins);
    tree.origins.sort();
    Ok(tree)
}

/// Bytes of a variable.
const LARGEST: u32 = 1 << 26;

/// Braces within braces that a text may have.
const DEEPEST: u32 = 64;

struct Parser {
    tokens: Vec<Spanned>,
    at: usize,
    depth: u32,
    file: String,
}

/// Bits of a PTX type.
pub(crate) fn type_bits(name: &str) -> Option<u32> {
    Some(match name {
        ".b8" | ".u8" | ".s8" => 8,
        ".b16" | ".u16" | ".s16" | ".f16" | ".bf16" => 16,
        ".b32" | ".u32" | ".s32" | ".f32" | ".f16x2" | ".bf16x2" | ".tf32" => 32,
        ".b64" | ".u64" | ".s64" | ".f64" => 64,
        ".b128" => 128,
        ".pred" => 1,
        _ => return None,
    })
}

impl Parser {
    fn peek(&self) -> &Token {
        &self.tokens[self.at].token
    }

    fn here(&self) -> (u32, u32) {
        (self.tokens[self.at].line, self.tokens[self.at].column)
    }

    fn next(&mut self) -> Token {
        let token = self.tokens[self.at].token.clone();
        if self.at + 1 < self.tokens.len() {
            self.at += 1;
        }
        token
    }

    fn error<T>(&self, message: impl Into<String>) -> Result<T> {
        Err(Diag::text("PTX-PARSE", &self.file, self.here(), message))
    }

    fn expected<T>(&self, what: &str) -> Result<T> {
        let found = match self.peek() {
            Token::Word(word) => format!("`{word}`"),
            Token::Int(n) => format!("`{n}`"),
            Token::Float(..) => "a float".into(),
            Token::Str(text) => format!("\"{text}\""),
            Token::Punct(c) => format!("`{c}`"),
            Token::End => "the end of the text".into(),
        };
        self.error(format!("expected {what}, found {found}"))
    }

    fn is(&self, c: char) -> bool {
        *self.peek() == Token::Punct(c)
    }

    fn eat(&mut self, c: char) -> bool {
        let found = self.is(c);
        if found {
            self.next();
        }
        found
    }

    fn need(&mut self, c: char) -> Result<()> {
        if self.eat(c) { Ok(()) } else { self.expected(&format!("`{c}`")) }
    }

    fn word(&mut self, what: &str) -> Result<String> {
        match self.peek() {
            Token::Word(word) => {
                let word = word.clone();
                self.next();
                Ok(word)
            }
            _ => self.expected(what),
        }
    }

    fn int(&mut self, what: &str) -> Result<u64> {
        let negative = self.eat('-');
        match *self.peek() {
            Token::Int(n) => {
                self.next();
                Ok(if negative { n.wrapping_neg() } else { n })
            }
            _ => self.expected(what),
        }
    }

    fn small(&mut self, what: &str) -> Result<u32> {
        let place = self.here();
        let n = self.int(what)?;
        u32::try_from(n).map_err(|_| {
            Diag::text("PTX-PARSE", &self.file, place, format!("{what} must be below 2^32, is {n}"))
        })
    }

    /// Skips `.loc`, `.file`: everything on the same line.
    fn skip_line(&mut self) {
        let line = self.here().0;
        while self.here().0 == line && *self.peek() != Token::End {
            self.next();
        }
    }

    fn module(&mut self) -> Result<Tree> {
        let mut tree = Tree {
            version: (0, 0),
            target: String::new(),
            variables: Vec::new(),
            kernels: Vec::new(),
            origins: Vec::new(),
        };
        loop {
            let (line, column) = self.here();
            let Token::Word(word) = self.peek().clone() else {
                if *self.peek() == Token::End {
                    break;
                }
                return self.expected("a directive");
            };
            match word.as_str() {
                ".version" => {
                    self.next();
                    tree.version = self.version()?;
                }
                ".target" => {
                    self.next();
                    tree.target = self.word("an architecture such as sm_80")?;
                    while self.eat(',') {
                        self.word("a target option")?;
                    }
                }
                ".address_size" => {
                    self.next();
                    if self.int("64")? != 64 {
                        return self.error("only .address_size 64 is supported");
                    }
                }
                ".visible" | ".weak" | ".extern" if self.leads_to_kernel() => {
                    self.next();
                }
                ".entry" => {
                    self.next();
                    let kernel = self.kernel(line, column)?;
                    tree.kernels.push(kernel);
                }
                ".func" => {
                    return Err(Diag::text(
                        "PTX-UNSUPPORTED",
                        &self.file,
                        (line, column),
                        ".func: device functions are not supported",
                    ));
                }
                ".file" | ".loc" => self.skip_line(),
                ".pragma" => {
                    self.next();
                    self.next();
                    self.need(';')?;
                }
                ".section" => {
                    while !self.eat('}') {
                        if *self.peek() == Token::End {
                            return self.expected("`}` at the end of the section");
                        }
                        self.next();
                    }
                }
                _ => {
                    let variables = self.variables()?;
                    tree.variables.extend(variables);
                }
            }
        }
        if tree.version == (0, 0) {
            return self.error("the text has no .version directive");
        }
        if tree.target.is_empty() {
            return self.error("the text has no .target directive");
        }
        Ok(tree)
    }

    fn leads_to_kernel(&self) -> bool {
        let next = self.tokens.get(self.at + 1).map(|s| &s.token);
        matches!(next, Some(Token::Word(w)) if matches!(w.as_str(), ".entry" | ".func"))
    }

    fn version(&mut self) -> Result<(u32, u32)> {
        // `8.0` arrives as the number 8 and the word `.0`.
        let major = self.small("a version such as 8.0")?;
        let minor = self.word("a version such as 8.0")?;
        match minor.strip_prefix('.').and_then(|n| n.parse().ok()) {
            Some(minor) => Ok((major, minor)),
            None => self.expected("a version such as 8.0"),
        }
    }

    fn kernel(&mut self, line: u32, column: u32) -> Result<Kernel> {
        let name = self.word("the kernel's name")?;
        let mut params = Vec::new();
        if self.eat('(') {
            while !self.eat(')') {
                params.push(self.parameter()?);
                if !self.is(')') {
                    self.need(',')?;
                }
            }
        }
        let mut directives = Vec::new();
        while let Token::Word(word) = self.peek().clone() {
            let Some(directive) = word.strip_prefix('.') else {
                return self.expected("a directive or `{`");
            };
            self.next();
            let mut values = Vec::new();
            if directive == "pragma" {
                self.next();
                self.need(';')?;
            }
            while let Token::Int(_) = self.peek() {
                values.push(self.small("a number")?);
                if !self.eat(',') {
                    break;
                }
            }
            directives.push((directive.to_owned(), values));
        }
        self.need('{')?;
        let body = self.block()?;
        Ok(Kernel { name, params, directives, body, line, column })
    }

    fn parameter(&mut self) -> Result<Parameter> {
        let first = self.word("`.param`")?;
        if first != ".param" {
            self.at -= 1;
            return self.expected("`.param`");
        }
        let (mut bits, mut align) = (0, 0);
        loop {
            let word = self.word("the parameter's type or name")?;
            match word.as_str() {
                ".align" => {
                    // `.ptr .align` states what the pointer points to.
                    let pointed = self.tokens[..self.at - 1]
                        .iter()
                        .rev()
                        .take_while(|s| !matches!(s.token, Token::Punct('(' | ',')))
                        .any(|s| s.token == Token::Word(".ptr".into()));
                    let n = self.alignment()?;
                    if !pointed {
                        align = n;
                    }
                }
                ".ptr" | ".global" | ".const" | ".local" | ".shared" => {}
                _ if word.starts_with('.') => match type_bits(&word) {
                    Some(n) if n > 1 => bits = n,
                    _ => {
                        self.at -= 1;
                        return self.expected("a parameter's type");
                    }
                },
                _ => {
                    let mut count = 1;
                    if self.eat('[') {
                        count = self.small("the parameter's size")?;
                        self.need(']')?;
                    }
                    if bits == 0 {
                        return self.error(format!("parameter {word} has no type"));
                    }
                    let align = if align > 0 { align } else { bits / 8 };
                    if count > LARGEST {
                        return self
                            .error(format!("parameter {word} has more than {LARGEST} elements"));
                    }
                    return Ok(Parameter { name: word, size: bits / 8 * count, align });
                }
            }
        }
    }

    /// One level further in.
    fn deeper<T>(&mut self, parse: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.depth == DEEPEST {
            return self.error(format!("more than {DEEPEST} levels within one another"));
        }
        self.depth += 1;
        let parsed = parse(self);
        self.depth -= 1;
        parsed
    }

    fn alignment(&mut self) -> Result<u32> {
        let n = self.small("an alignment")?;
        if !n.is_power_of_two() || n > 1 << 16 {
            return self.error(format!("alignment {n}: expected a power of two up to 65536"));
        }
        Ok(n)
    }

    fn block(&mut self) -> Result<Vec<Statement>> {
        let mut statements = Vec::new();
        loop {
            let (line, column) = self.here();
            match self.peek().clone() {
                Token::Punct('}') => {
                    self.next();
                    return Ok(statements);
                }
                Token::Punct('{') => {
                    self.next();
                    statements.push(Statement::Block(self.deeper(Self::block)?));
                }
                Token::Punct('@') => statements.push(self.instruction()?),
                Token::Punct(';') => {
                    self.next();
                }
                Token::Word(word) => match word.as_str() {
                    ".loc" | ".file" => self.skip_line(),
                    ".pragma" => {
                        self.next();
                        self.next();
                        self.need(';')?;
                    }
                    ".reg" => {
                        self.next();
                        statements.push(self.registers(line, column)?);
                    }
                    _ if word.starts_with('.') => {
                        let variables = self.variables()?;
                        statements.extend(variables.into_iter().map(Statement::Variable));
                    }
                    _ if self.label_follows() => {
                        self.next();
                        self.next();
                        if *self.peek() == Token::Word(".branchtargets".into()) {
                            self.next();
                            let mut targets = vec![self.word("a label")?];
                            while self.eat(',') {
                                targets.push(self.word("a label")?);
                            }
                            self.need(';')?;
                            statements.push(Statement::BranchTargets(word, targets));
                        } else {
                            statements.push(Statement::Label(word, line, column));
                        }
                    }
                    _ => statements.push(self.instruction()?),
                },
                _ => return self.expected("an instruction, a label or `}`"),
            }
        }
    }

    fn label_follows(&self) -> bool {
        self.tokens.get(self.at + 1).is_some_and(|s| s.token == Token::Punct(':'))
    }
}
