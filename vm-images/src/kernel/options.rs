// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Whether a kernel's configuration came out as it was asked for. `make` drops an option without a word
//! when it knows none of that name, or when something that the option needs is off.

/// The lines of `wanted` that do not hold in `config`, a whole configuration, each with what holds
/// instead. Lines that are neither `CONFIG_X=VALUE` nor `# CONFIG_X is not set` are remarks.
pub(super) fn not_taken(wanted: &str, config: &str) -> Vec<String> {
    wanted
        .lines()
        .filter_map(|line| {
            let (name, value) = parse(line)?;
            let found = config.lines().filter_map(parse);
            let is = found
                .filter(|(other, _)| *other == name)
                .find_map(|(_, is)| is);
            let says = is.map_or_else(|| "it is off".to_owned(), |is| format!("it is {is}"));
            (is != value).then(|| format!("{line}: {says}"))
        })
        .collect()
}

/// The lines of `wanted` that are options, one after the other: what a remark says changes no kernel.
pub(super) fn without_remarks(wanted: &str) -> String {
    let options = wanted.lines().filter(|line| parse(line).is_some());
    options.collect::<Vec<_>>().join("\n")
}

/// An option's name, and its value unless it is off.
fn parse(line: &str) -> Option<(&str, Option<&str>)> {
    if let Some(off) = line.strip_prefix("# CONFIG_") {
        return Some((off.strip_suffix(" is not set")?, None));
    }
    let (name, value) = line.strip_prefix("CONFIG_")?.split_once('=')?;
    Some((name, Some(value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = "#\n# Automatically generated\n#\nCONFIG_RUST=y\nCONFIG_KASAN_INLINE=y\n\
        # CONFIG_KASAN_STACK is not set\nCONFIG_LOCKDEP_BITS=15\nCONFIG_NAME=\"a=b\"\n";

    #[test]
    fn options_that_took_are_not_named() {
        let wanted = "# Needed: Rust.\nCONFIG_RUST=y\n\n# CONFIG_KASAN_STACK is not set\n\
            # CONFIG_NEVER_HEARD_OF is not set\nCONFIG_NAME=\"a=b\"\n";
        assert_eq!(not_taken(wanted, CONFIG), Vec::<String>::new());
    }

    #[test]
    fn each_option_that_did_not_take_is_named_with_what_it_is() {
        let wanted = "CONFIG_RUST=y\nCONFIG_LKDTM=y\nCONFIG_LOCKDEP_BITS=16\n\
            # CONFIG_KASAN_INLINE is not set\nCONFIG_KASAN=y\nCONFIG_KASAN_STACK=y\n";
        assert_eq!(
            not_taken(wanted, CONFIG),
            [
                "CONFIG_LKDTM=y: it is off",
                "CONFIG_LOCKDEP_BITS=16: it is 15",
                "# CONFIG_KASAN_INLINE is not set: it is y",
                "CONFIG_KASAN=y: it is off",
                "CONFIG_KASAN_STACK=y: it is off",
            ]
        );
    }

    #[test]
    fn remarks_change_no_kernel_and_options_do() {
        let options = without_remarks("# Why.\nCONFIG_A=y\n\n# CONFIG_B is not set\n");
        assert_eq!(options, "CONFIG_A=y\n# CONFIG_B is not set");
    }

    #[test]
    fn every_line_of_our_configuration_is_an_option_or_a_remark() {
        for line in super::super::debug::CONFIG.lines() {
            let remark = line.is_empty() || line.starts_with("# ");
            assert!(parse(line).is_some() || remark, "{line}");
        }
    }
}
