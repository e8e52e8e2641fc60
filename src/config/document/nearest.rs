//! Finds the name that was meant by a misspelled one.

/// The name nearest to `written`: the same but for case, `_` and `-`, or begun by it, or few typing errors away.
pub(in crate::config) fn nearest<'a>(
    written: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    // What is this long is no typing error, and comparing it takes long.
    if written.len() > 64 {
        return None;
    }
    let letters = letters_of(written);
    let most = letters.len() / 4 + 1;
    // The key of the value itself is not suggested for a file or a variable: the path would be sent as the secret.
    let mut sources = ["File", "Env"].into_iter();
    let source = sources.find(|source| written.ends_with(source));
    let is_alike = |name: &&str| source.is_none_or(|source| name.ends_with(source));
    known
        .into_iter()
        .filter(is_alike)
        .map(|name| (distance(&letters, &letters_of(name)), name))
        .filter(|(distance, _)| *distance <= most && *distance < letters.len())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

fn letters_of(name: &str) -> Vec<char> {
    name.chars()
        .filter(|letter| !matches!(letter, '_' | '-' | ' '))
        .flat_map(char::to_lowercase)
        .collect()
}

/// How many letters must be inserted, removed or replaced (Levenshtein). A name that `written` begins is one away.
fn distance(written: &[char], known: &[char]) -> usize {
    if written.len() > 2 && written != known && known.starts_with(written) {
        return 1;
    }
    let mut row: Vec<usize> = (0..=known.len()).collect();
    for (index, letter) in written.iter().enumerate() {
        let mut previous = index;
        let mut left = index + 1;
        for (cell, other) in row.iter_mut().skip(1).zip(known) {
            let replaced = previous + usize::from(letter != other);
            previous = *cell;
            left = replaced.min(previous + 1).min(left + 1);
            *cell = left;
        }
        if let Some(first) = row.first_mut() {
            *first = index + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

/// The names in backquotes, as the end of a sentence.
pub(in crate::config) fn one_of<'a>(known: impl IntoIterator<Item = &'a str>) -> String {
    let known: Vec<_> = known.into_iter().map(|key| format!("`{key}`")).collect();
    format!("one of {}", known.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelled_name_is_found_and_another_word_is_not() {
        let known = [
            "tokenUrl",
            "clientId",
            "clientSecret",
            "audience",
            "roleArn",
        ];
        for (written, meant) in [
            ("clientID", Some("clientId")),
            ("client_id", Some("clientId")),
            ("token-url", Some("tokenUrl")),
            ("audiance", Some("audience")),
            ("cleintSecret", Some("clientSecret")),
            ("role", Some("roleArn")),
            ("colour", None),
            ("x", None),
            ("", None),
            ("ro", None),
        ] {
            assert_eq!(nearest(written, known), meant, "{written}");
        }
        assert_eq!(nearest(&"a".repeat(100_000), known), None);
    }
}
