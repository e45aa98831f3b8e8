"""The Faust application that device and cloud run on, with a cure for each known failure of Faust."""
