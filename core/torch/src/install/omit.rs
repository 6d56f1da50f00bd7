//! Functions that can't be compiled against some PyTorch: torch-sys' generated file has one function for each operator of the version
//! that it was made for, and other versions have a few others. Those that the compiler complains of are left out.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

/// A function of the generated file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// Its lines, counted from 1.
    pub lines: RangeInclusive<usize>,
}

/// The functions of a C++ source whose definitions begin and end at the left margin, as those of the generated file do.
pub fn functions(source: &str) -> Vec<Function> {
    let mut found = Vec::new();
    let mut open: Option<(String, usize)> = None;
    for (index, line) in source.lines().enumerate() {
        let number = index + 1;
        if line == "}" {
            if let Some((name, first)) = open.take() {
                let lines = first..=number;
                found.push(Function { name, lines });
            }
        } else if open.is_none() && line.ends_with('{') && line.starts_with(|c: char| c.is_ascii_alphabetic()) {
            open = name_of(line).map(|name| (name, number));
        }
    }
    found
}

/// `f` of `void f(int x) {`.
fn name_of(line: &str) -> Option<String> {
    let before = line.split_once('(')?.0;
    let name = before.rsplit([' ', '*', '&']).next()?;
    let is_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    is_name.then(|| name.to_owned())
}

/// Lines of `file` that the errors in a compiler's log lead to: those of errors in it, and those that use a template in a header with
/// an error. GCC and Clang, in English.
pub fn lines_with_errors(log: &str, file: &str) -> BTreeSet<usize> {
    const MARKS: [&str; 4] = [": error:", ": fatal error:", "required from", "requested here"];
    let marked = |line: &&str| MARKS.iter().any(|mark| line.contains(mark));
    log.lines()
        .filter(marked)
        .filter_map(|line| {
            let (path, rest) = line.split_once(&format!("{file}:"))?;
            let whole_name = path.is_empty() || path.ends_with('/');
            let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
            whole_name.then(|| digits.parse().ok())?
        })
        .collect()
}

/// The functions around lines; `None` where a line is in none, as leaving functions out then doesn't help.
pub fn enclosing(functions: &[Function], lines: &BTreeSet<usize>) -> Option<BTreeSet<String>> {
    lines
        .iter()
        .map(|line| {
            let function = functions.iter().find(|function| function.lines.contains(line))?;
            Some(function.name.clone())
        })
        .collect()
}

/// The source with only the functions that are wanted. Lines keep their numbers.
pub fn keep(source: &str, functions: &[Function], wanted: &dyn Fn(&str) -> bool) -> String {
    let mut lines: Vec<&str> = source.lines().collect();
    for function in functions.iter().filter(|function| !wanted(&function.name)) {
        let (first, last) = (*function.lines.start(), *function.lines.end());
        lines[first - 1..last].fill("");
    }
    let mut text = lines.join("\n");
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "\
#include \"g.h\"

void atg_one(tensor *out__, tensor self) {
  PROTECT(
    auto outputs__ = torch::one(*self);
  )
}

tensor *atg_two(tensor self) {
  if (self) {
    return nullptr;
  }
  PROTECT(return torch::two(*self);)
}

int at_three() {
  return 3;
}
";

    const GCC: &str = "\
In file included from dir/g.h:3,
                 from dir/g.cpp:1:
dir/g.cpp: In function 'void atg_one(at::Tensor**, at::Tensor*)':
dir/g.cpp:5:29: error: 'one' is not a member of 'torch'
    5 |     auto outputs__ = torch::one(*self);
dir/g.h:9:3: note: in definition of macro 'PROTECT'
dir/other_g.cpp:16:1: error: in a file whose name only ends the same
dir/include/x.h: In instantiation of 'auto two(T) [with T = int]':
dir/g.cpp:13:30:   required from here
dir/include/x.h:3:5: error: static assertion failed
dir/g.cpp:17:3: warning: unused
";

    #[test]
    fn functions_are_found_by_their_margins() {
        let found = functions(SOURCE);
        let names: Vec<&str> = found.iter().map(|function| function.name.as_str()).collect();
        assert_eq!(names, ["atg_one", "atg_two", "at_three"]);
        assert_eq!(found[0].lines, 3..=7);
        assert_eq!(found[1].lines, 9..=14);
    }

    #[test]
    fn a_log_leads_to_functions() {
        let lines = lines_with_errors(GCC, "g.cpp");
        assert_eq!(lines, BTreeSet::from([5, 13]));
        let names = enclosing(&functions(SOURCE), &lines).unwrap();
        assert_eq!(names, BTreeSet::from(["atg_one".to_owned(), "atg_two".to_owned()]));
        let clang = "/a b/g.cpp:10:3: error: no member named 'two' in namespace 'torch'\n\
                     /a b/g.cpp:5:3: note: in instantiation of function template specialization 'f<int>' requested here\n\
                     fatal error: too many errors emitted, stopping now [-ferror-limit=]\n";
        assert_eq!(lines_with_errors(clang, "g.cpp"), BTreeSet::from([5, 10]));
    }

    #[test]
    fn an_error_outside_of_all_functions_is_none_of_one() {
        let lines = lines_with_errors("g.cpp:1:10: fatal error: g.h: No such file or directory\n", "g.cpp");
        assert_eq!(lines, BTreeSet::from([1]));
        assert_eq!(enclosing(&functions(SOURCE), &lines), None);
    }

    #[test]
    fn what_is_left_keeps_its_lines() {
        let text = keep(SOURCE, &functions(SOURCE), &|name| name != "atg_two");
        assert_eq!(text.lines().count(), SOURCE.lines().count());
        let names: Vec<String> = functions(&text).into_iter().map(|function| function.name).collect();
        assert_eq!(names, ["atg_one", "at_three"]);
        assert_eq!(text.lines().nth(15), SOURCE.lines().nth(15));
    }

    #[test]
    fn the_generated_file_is_understood() {
        let sources = super::super::sources::all().unwrap();
        let generated = sources
            .iter()
            .find(|source| source.name == "torch_api_generated.cpp")
            .unwrap();
        let text = std::str::from_utf8(&generated.text).unwrap();
        let found = functions(text);
        assert_eq!(found.len(), text.lines().filter(|line| *line == "}").count());
        assert!(found.iter().all(|function| function.name.starts_with("at")));
    }
}
