//! An expression of a configuration file, over one variable.
//!
//! CEL text -> a checked program; JSON -> what the program makes of it, within the usual limits of cost. Counterparts:
//! `k8s.io/apiserver/pkg/{authentication,authorization}/cel`. Differs from upstream: fields are not checked at
//! compile time. Invariant: an expression that fails says why, and counts as neither true nor false.

use serde_json::Value as Json;
use skiff_cel::{DeclType, Env, PER_CALL_LIMIT, Program, Type, Value};

pub struct Expression {
    pub text: String,
    variable: &'static str,
    program: Program,
}

impl Expression {
    /// `kinds` are those that the result may be of; what is only known when it is evaluated passes here.
    pub fn compile(
        text: &str,
        variable: &'static str,
        kinds: &[Type],
    ) -> Result<Expression, String> {
        let env = Env::kubernetes().variable(variable, Type::map(Type::String, Type::Dyn));
        let program = env.compile(text).map_err(|error| format!("compilation failed: {error}"))?;
        let output = program.output();
        if *output != Type::Dyn && !kinds.contains(output) {
            return Err(format!("the expression must not evaluate to {output}"));
        }
        Ok(Expression { text: text.to_owned(), variable, program })
    }

    pub fn evaluate(&self, data: &Json) -> Result<Json, String> {
        let decl = DeclType::map(DeclType::dynamic(), None);
        let value = Value::declared(data, &decl).map_err(|error| error.to_string())?;
        let outcome = self.program.evaluate(&[(self.variable, value)], PER_CALL_LIMIT);
        let value = outcome.value.map_err(|error| error.to_string())?;
        value.to_json().ok_or_else(|| "the result cannot be used".to_owned())
    }

    pub fn holds(&self, data: &Json) -> Result<bool, String> {
        match self.evaluate(data)? {
            Json::Bool(holds) => Ok(holds),
            _ => Err("validation expression must return a boolean".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_expression_is_checked_before_and_while_it_is_used() {
        let compile = |text| Expression::compile(text, "claims", &[Type::Bool]);
        let adult = compile("claims.age > 17").expect("good");
        assert_eq!(adult.holds(&json!({ "age": 18 })), Ok(true));
        assert_eq!(adult.holds(&json!({ "age": 3 })), Ok(false));
        assert!(adult.holds(&json!({})).is_err());
        assert!(compile("claims.age >").is_err());
        assert!(compile("'text'").is_err());
        assert!(compile("other.age > 1").is_err());
    }
}
