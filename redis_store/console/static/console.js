// What pages do besides links and forms. Everything can be read and done without it.
