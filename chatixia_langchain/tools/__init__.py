"""How LangChain sees the mesh: a peer as a tool, the mesh as a toolkit."""
