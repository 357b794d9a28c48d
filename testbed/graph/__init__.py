"""Pictures of a topology: text, Mermaid, SVG."""
