use crate::oauth::http_client::parse_url;

/// Reads a client's ID that is the URL of a document (draft-ietf-oauth-client-id-metadata-document §3), and returns the path
/// of it. The error is the end of a sentence about the ID.
pub(in crate::upstream) fn document_path(client_id: &str) -> Result<String, &'static str> {
    const NO_DOCUMENT: &str =
        "is not the URL of a document, such as `https://gateway.example.com/client.json`";

    let (uri, _) = parse_url(client_id, false).map_err(|_| NO_DOCUMENT)?;
    // The URL is compared as text.
    let has_dots = uri.path().split('/').any(|part| matches!(part, "." | ".."));
    if uri.path().len() < 2 || has_dots || uri.query().is_some() {
        return Err(NO_DOCUMENT);
    }
    Ok(uri.path().to_owned())
}
