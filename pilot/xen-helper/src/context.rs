//! What a guest is told of itself: its name and its user's data, in its xenstore node before it runs.
//!
//! `data/workspace-context/hostname` has the name; `.../user-data` says in how many pieces the data
//! is, `.../user-data/0` and so on have them: base64, to be put together before it is decoded.

use xen_helper::Order;

use crate::xen;

const NODE: &str = "data/workspace-context";
/// Of base64 in a piece: xenstore takes 4096 bytes with the path.
const PIECE: usize = 3000;
/// Written at a time, in one transaction.
const AT_A_TIME: usize = 8;
/// 64 KiB in base64.
const MOST: usize = 65_536_usize.div_ceil(3) * 4;

/// Checks what is said of the guest.
pub fn check(order: &Order) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    if order.hostname.is_empty() || order.hostname.len() > 253 || !order.hostname.chars().all(plain)
    {
        return Err("the guest's name has odd characters or is too long".to_owned());
    }
    let coded = |c: char| c.is_ascii_alphanumeric() || c == '+' || c == '/' || c == '=';
    if order.user_data.len() > MOST {
        return Err("the user's data is larger than 64 KiB".to_owned());
    }
    if !order.user_data.chars().all(coded) {
        return Err("the user's data is not base64".to_owned());
    }
    Ok(())
}

/// Keys and values, below the domain's node.
fn nodes(order: &Order) -> Vec<(String, String)> {
    let data = order.user_data.as_str();
    let starts: Vec<usize> = (0..data.len()).step_by(PIECE).collect();
    let mut nodes = vec![
        (format!("{NODE}/hostname"), order.hostname.clone()),
        (format!("{NODE}/user-data"), starts.len().to_string()),
    ];
    nodes.extend(starts.iter().enumerate().map(|(number, at)| {
        let piece = &data[*at..data.len().min(at + PIECE)];
        (format!("{NODE}/user-data/{number}"), piece.to_owned())
    }));
    nodes
}

/// Tells it to a domain that does not run yet.
pub fn tell(order: &Order, domain: u32) -> Result<(), String> {
    for some in nodes(order).chunks(AT_A_TIME) {
        let some: Vec<(&str, &str)> = some.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        xen::write(domain, &some)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::order;

    #[test]
    fn data_is_in_pieces_that_xenstore_takes() {
        let order = Order {
            user_data: "A".repeat(MOST),
            ..order()
        };
        check(&order).unwrap();
        let nodes = nodes(&order);
        assert_eq!(nodes[0].0, "data/workspace-context/hostname");
        assert_eq!(nodes[1].1, (nodes.len() - 2).to_string());
        assert!(nodes.iter().all(|(k, v)| k.len() + v.len() < 3900));
        let whole: String = nodes[2..].iter().map(|(_, v)| v.as_str()).collect();
        assert_eq!(whole, order.user_data);
    }

    #[test]
    fn no_data_is_no_piece() {
        assert_eq!(nodes(&order())[1].1, "0");
        assert_eq!(nodes(&order()).len(), 2);
    }

    #[test]
    fn what_is_not_what_it_should_be_is_refused() {
        for bad in ["", "a b", "a\\x", "a\n", &"x".repeat(254)] {
            let hostname = bad.to_owned();
            assert!(
                check(&Order {
                    hostname,
                    ..order()
                })
                .is_err(),
                "{bad:?}"
            );
        }
        for bad in ["a b", "a\\n", "-a", &"A".repeat(MOST + 1)] {
            let user_data = bad.to_owned();
            assert!(
                check(&Order {
                    user_data,
                    ..order()
                })
                .is_err(),
                "{bad:?}"
            );
        }
    }
}
