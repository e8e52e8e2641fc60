"""Makes DPoP proofs with libraries that nobody here wrote: PyJWT and cryptography, which MCP's Python SDK brings.

    PYTHONPATH=target/peers/mcp/python python3 tests/peers/mcp/dpop.py '{"htu": …, "iat": …, "token": …}'

It prints, for each algorithm, the JWK of a new key, its thumbprint (RFC 7638), and a proof.
"""

import base64
import hashlib
import json
import sys
import uuid

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import get_default_algorithms

asked = json.loads(sys.argv[1])
KEYS = {
    "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "ES384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate,
    "RS256": lambda: rsa.generate_private_key(65537, 2048),
    "PS256": lambda: rsa.generate_private_key(65537, 4096),
}
MEMBERS = {"EC": ["crv", "kty", "x", "y"], "OKP": ["crv", "kty", "x"], "RSA": ["e", "kty", "n"]}


def base64url(octets):
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode()


def proof(algorithm):
    key = KEYS[algorithm]()
    jwk = json.loads(get_default_algorithms()[algorithm].to_jwk(key.public_key()))
    jwk = {name: jwk[name] for name in MEMBERS[jwk["kty"]]}
    canonical = json.dumps(jwk, separators=(",", ":"), sort_keys=True)
    thumbprint = base64url(hashlib.sha256(canonical.encode()).digest())
    claims = {
        "jti": str(uuid.uuid4()),
        "htm": "GET",
        "htu": asked["htu"],
        "iat": asked["iat"],
        "ath": base64url(hashlib.sha256(asked["token"].encode()).digest()),
    }
    header = {"typ": "dpop+jwt", "jwk": jwk}
    return {"thumbprint": thumbprint, "proof": jwt.encode(claims, key, algorithm=algorithm, headers=header)}


print(json.dumps({algorithm: proof(algorithm) for algorithm in KEYS}))
