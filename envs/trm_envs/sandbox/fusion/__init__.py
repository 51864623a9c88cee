"""SandboxFusion's protocol: a client, and a server of our own."""
